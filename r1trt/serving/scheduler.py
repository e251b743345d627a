"""Continuous batching: requests join and leave a running batch between any two calls of the model.

A call either reads a piece of a prompt or gives every running request its next token, in turn, so that a long
prompt delays the others' tokens by one piece at a time; prompts take turns too, a piece each. The two kinds
do not share a call: a row of one token beside a row of 64 would be padded to 64, and on its own the piece
costs no more.

Legend: B rows of one call, S tokens of one call, V vocabulary.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from r1trt.errors import ConfigError, R1TrtError
from r1trt.runtime.prompt_lookup import require_all_logits
from r1trt.runtime.session import Float32Array, Int64Array, Session, last_token_logits
from r1trt.serving import metrics as m
from r1trt.serving.active_request import ActiveRequest
from r1trt.serving.call_sizes import CallSizes, measured_call_sizes
from r1trt.serving.config import SchedulerConfig
from r1trt.serving.fields import QUEUE_FULL, TOO_LONG
from r1trt.serving.pinned import read_pinned
from r1trt.serving.request import (
    CancelledError,
    Client,
    GenerationRequest,
    QueueFullError,
    RequestError,
    RequestEvent,
)
from r1trt.serving.row_table import RowTable
from r1trt.serving.speculation import accepted, drafted
from r1trt.tokenizer.text_tokenizer import TextTokenizer


class Scheduler:
    """Serves requests with one model. `submit` may be called from any thread, everything else from one.

    Args:
        session: The model.
        tokenizer: Its tokenizer.
        config: Limits.
        metrics: Where measurements go.
        pinned: Tokens that prompts begin with. They are read now, into a row of their own, and kept there.

    Raises:
        ConfigError: The model has no KV cache, or no room for the pinned tokens.
        SessionError: Reading them failed.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: TextTokenizer,
        config: SchedulerConfig,
        metrics: m.MetricSink,
        pinned: Sequence[int] = (),
    ) -> None:
        capacity = session.limits.capacity
        if capacity is None:
            raise ConfigError("A model without a KV cache cannot be scheduled.")
        if config.prompt_lookup:
            require_all_logits(session.limits.last_token_logits)
        self._session = session
        self._tokenizer = tokenizer
        self._config = config
        self._metrics = metrics
        self._capacity = capacity
        rows = session.rows - bool(pinned)
        self._budget = config.token_budget or rows * capacity
        self._sizes = _call_sizes(session, config)
        self._arrived: deque[ActiveRequest] = deque()
        self._waiting: deque[ActiveRequest] = deque()
        if pinned:
            read_pinned(session, pinned, self._sizes.piece)
        self._table = RowTable(rows, pinned=pinned, reuse=config.prefix_reuse, answers=config.reuse_answers)
        self._decode_next = False

    @property
    def chunk_tokens(self) -> int:
        """Prompt tokens of one call, as configured or as measured."""
        return self._sizes.piece

    def submit(self, request: GenerationRequest, client: Client) -> None:
        """Enters a request into the queue.

        Raises:
            RequestError: It can never be served: prompt and tokens asked for exceed the cache or the budget.
            QueueFullError: Too many requests wait.
        """
        self._check(request)
        only_last = self._session.limits.last_token_logits
        active = ActiveRequest(
            request,
            client,
            self._tokenizer,
            last_token_logits=only_last,
            prompt_lookup=self._config.prompt_lookup,
        )
        self._arrived.append(active)

    def step(self) -> bool:
        """Admits requests and calls the model once.

        Returns:
            Whether there was anything to do.
        """
        while self._arrived:
            self._waiting.append(self._arrived.popleft())
        self._drop_cancelled()
        self._admit()
        for swap in self._table.gather():
            self._session.swap(swap.row, swap.other, swap.tokens)
        reading, decoding = self._table.reading(), self._table.decoding()
        if reading and not (decoding and self._decode_next):
            self._read(self._table.reading_group(reading[0], self._sizes, self._capacity))
            self._decode_next = True
        elif len(decoding) == 1 and (draft := drafted(decoding[0], self._session.limits)):
            self._decode_draft(decoding[0], draft)
            self._decode_next = False
        elif decoding:
            self._decode(decoding)
            self._decode_next = False
        self._set_gauges()
        if not reading and not decoding:
            self._metrics.flush()
        return bool(reading or decoding)

    def close(self, error: R1TrtError) -> None:
        """Ends every request with an error."""
        for active in [*self._arrived, *self._waiting, *self._table.requests()]:
            self._fail(active, error)
        self._arrived.clear()
        self._waiting.clear()
        self._set_gauges()
        self._metrics.flush()

    def _check(self, request: GenerationRequest) -> None:
        prompt, new = len(request.prompt_ids), request.max_new_tokens
        if request.budget > min(self._capacity, self._budget):
            raise RequestError(
                f"The request is {TOO_LONG}.",
                found=f"{prompt} prompt tokens + {new} max_tokens",
                expected=f"at most {min(self._capacity, self._budget) + 1} in total",
                fix="shorten the prompt, or ask for fewer tokens",
            )
        if max(request.prompt_ids) >= self._session.limits.vocab_size or min(request.prompt_ids) < 0:
            raise RequestError("A token of the prompt is not in the model's vocabulary.")
        if len(self._arrived) + len(self._waiting) >= self._config.max_queue:
            raise QueueFullError(
                QUEUE_FULL,
                found=f"{self._config.max_queue} requests waiting",
                fix="send the request again later",
            )

    def _admit(self) -> None:
        """First come, first served: a request that does not fit yet holds back those behind it."""
        while self._waiting:
            held = sum(active.request.budget for active in self._table.requests())
            if self._table.is_full or held + self._waiting[0].request.budget > self._budget:
                return
            active = self._waiting.popleft()
            source = self._table.put(active)
            if source != active.row:
                self._session.move(source, active.row, active.past)
            self._metrics.add(m.REUSED_TOKENS, active.reused)
            active.started_at = time.perf_counter()
            self._metrics.observe(m.QUEUE_SECONDS, active.started_at - active.submitted_at)

    def _drop_cancelled(self) -> None:
        for active in self._table.requests():
            if active.client.is_cancelled():
                self._fail(active, CancelledError("The request was cancelled."))
        gone = [active for active in self._waiting if active.client.is_cancelled()]
        for active in gone:
            self._waiting.remove(active)
            self._fail(active, CancelledError("The request was cancelled."))

    def _read(self, group: Sequence[ActiveRequest]) -> None:
        seq_len_B = np.array([active.piece(self._sizes.piece) for active in group], np.int64)
        input_ids_BS = np.zeros((len(group), int(seq_len_B.max())), np.int64)
        past_len_B = np.array([active.past for active in group], np.int64)
        for row, active in enumerate(group):
            piece = active.request.prompt_ids[active.past : active.past + int(seq_len_B[row])]
            input_ids_BS[row, : len(piece)] = piece
        logits = self._call(group, input_ids_BS, seq_len_B, past_len_B)
        if logits is None:
            return
        self._metrics.add(m.PREFILL_STEPS)
        self._metrics.add(m.PROMPT_TOKENS, int(seq_len_B.sum()))
        logits_BV = last_token_logits(logits, seq_len_B)
        for row, active in enumerate(group):
            self._advance(active, int(seq_len_B[row]), logits[row], logits_BV[row])

    def _decode(self, decoding: Sequence[ActiveRequest]) -> None:
        first, last = decoding[0].row, decoding[-1].row
        B = last - first + 1
        input_ids_BS, seq_len_B = np.zeros((B, 1), np.int64), np.zeros(B, np.int64)
        # Rows between that read a prompt or are free stay as they are: their padding lies after their tokens.
        past_len_B = self._table.past()[first : last + 1]
        for active in decoding:
            input_ids_BS[active.row - first] = active.last_token
            seq_len_B[active.row - first] = 1
        logits = self._call(decoding, input_ids_BS, seq_len_B, past_len_B)
        if logits is None:
            return
        self._metrics.add(m.DECODE_STEPS)
        logits_BV = last_token_logits(logits, seq_len_B)
        for active in decoding:
            active.past += 1
            self._take(active, logits_BV[active.row - first])

    def _decode_draft(self, active: ActiveRequest, draft: Sequence[int]) -> None:
        """One call for the next token and those of a draft; of these it takes what would be chosen anyway."""
        input_ids_BS = np.array([[active.last_token, *draft]], np.int64)
        S = input_ids_BS.shape[1]
        logits = self._call([active], input_ids_BS, np.array([S]), np.array([active.past]), only_last=False)
        if logits is None:
            return
        self._metrics.add(m.DECODE_STEPS)
        before = accepted(active)
        for place in range(S):
            active.past += 1
            self._take(active, logits[0, place])
            is_gone = active not in self._table.requests()
            if is_gone or place == len(draft) or active.last_token != draft[place]:
                break
        self._metrics.add(m.DRAFTED_TOKENS, len(draft))
        self._metrics.add(m.ACCEPTED_TOKENS, accepted(active) - before)

    def _call(
        self,
        requests: Sequence[ActiveRequest],
        input_ids_BS: Int64Array,
        seq_len_B: Int64Array,
        past_len_B: Int64Array,
        *,
        only_last: bool = True,
    ) -> Float32Array | None:
        """One call of the model; what it raises ends the requests in it, and no others."""
        try:
            only_last = only_last and not any(active.request.scores_prompt for active in requests)
            first_row = requests[0].row
            return self._session.step(input_ids_BS, seq_len_B, past_len_B, first_row, only_last=only_last)
        except R1TrtError as error:
            for active in requests:
                self._fail(active, error)
            return None

    def _advance(
        self, active: ActiveRequest, tokens: int, logits_SV: Float32Array, logits_V: Float32Array
    ) -> None:
        """Enters what a call has read of a prompt; its end brings the first token."""
        try:
            active.read(tokens, logits_SV)
        except R1TrtError as error:
            self._fail_for_logits(active, error)
            return
        if active.unread:
            self._table.defer(active)
        else:
            self._take(active, logits_V)

    def _take(self, active: ActiveRequest, logits_V: Float32Array) -> None:
        try:
            event = active.take(logits_V)
        except R1TrtError as error:
            self._fail_for_logits(active, error)
            return
        if event is None:
            self._metrics.add(m.PROMPT_TOKENS)
            return
        self._metrics.add(m.NEW_TOKENS, event.new_tokens)
        if active.new_tokens == 1:
            self._metrics.observe(m.FIRST_TOKEN_SECONDS, active.first_token_at - active.submitted_at)
        if event.is_final:
            self._table.remove(active)
            self._metrics.add(m.FINISHED)
            if active.new_tokens > 1:
                decoding = time.perf_counter() - active.first_token_at
                self._metrics.observe(m.TOKEN_SECONDS, decoding / (active.new_tokens - 1))
        self._send(active, event)

    def _fail_for_logits(self, active: ActiveRequest, error: R1TrtError) -> None:
        # What made the logits NaN may stay in the row and would spoil its next request.
        self._session.clear(active.row)
        self._fail(active, error)

    def _fail(self, active: ActiveRequest, error: R1TrtError) -> None:
        # What a failed call has written is not known; a cancelled request ends between two calls.
        self._table.remove(active, is_sound=isinstance(error, CancelledError))
        self._metrics.add(m.CANCELLED if isinstance(error, CancelledError) else m.FAILED)
        self._send(active, RequestEvent(error=error))

    def _send(self, active: ActiveRequest, event: RequestEvent) -> None:
        try:
            active.client.send(event)
        except Exception:  # a transport's own error types: whichever it is, nobody listens any more
            if not event.is_final:
                self._table.remove(active)
                self._metrics.add(m.CANCELLED)

    def _set_gauges(self) -> None:
        self._metrics.set(m.WAITING, len(self._waiting) + len(self._arrived))
        running = self._table.requests()
        self._metrics.set(m.RUNNING, len(running))
        tokens = sum(active.past for active in running)
        self._metrics.set(m.CACHE_USE, tokens / (self._session.rows * self._capacity))


def _call_sizes(session: Session, config: SchedulerConfig) -> CallSizes:
    if config.chunk_tokens is None:
        return measured_call_sizes(session)
    tokens = min(config.chunk_tokens, session.limits.max_input_len or config.chunk_tokens)
    return CallSizes(piece=tokens, call=tokens)
