"""Requests, what came of them, and the answer that each would get alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from r1trt.errors import R1TrtError
from r1trt.runtime.logprobs import TokenLogprob
from r1trt.runtime.sampling import Sampler
from r1trt.runtime.session import (
    LOGITS,
    Float32Array,
    Int64Array,
    Outputs,
    Session,
    SessionError,
    SessionLimits,
    last_token_logits,
)
from r1trt.serving.config import SchedulerConfig
from r1trt.serving.metrics import RecordedMetrics
from r1trt.serving.request import Client, GenerationRequest, RequestEvent
from r1trt.serving.scheduler import Scheduler
from r1trt.tokenizer.stop_texts import StopTexts
from r1trt.tokenizer.text_tokenizer import TextTokenizer

NEAR_TIE = 1e-3
"""Two candidates' logits this close may change places where the order of sums changes."""


@dataclass
class Answer:
    """Collects what one client gets."""

    pieces: list[str] = field(default_factory=list)
    new_tokens: int = 0
    cached_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    error: R1TrtError | None = None
    cancelled: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def is_final(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    def take(self, event: RequestEvent) -> None:
        assert not self.is_final, "a message after the last one"
        self.pieces.append(event.text)
        self.new_tokens += event.new_tokens
        self.cached_tokens += event.cached_tokens
        self.logprobs += event.logprobs
        self.finish_reason, self.error = event.finish_reason, event.error

    @property
    def client(self) -> Client:
        return Client(send=self.take, is_cancelled=lambda: self.cancelled)


@dataclass(frozen=True)
class Call:
    """One call of the model, as a `RecordingSession` saw it."""

    first_row: int
    seq_len: tuple[int, ...]
    tokens: int

    @property
    def is_prefill(self) -> bool:
        return self.tokens > 1


class PassingSession(Session):
    """Passes everything on to another session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.limits: SessionLimits = session.limits
        self.rows = session.rows

    def reset(self, rows: int) -> None:
        self.session.reset(rows)
        self.rows = rows

    def run(
        self,
        input_ids_BS: Int64Array,
        seq_len_B: Int64Array,
        past_len_B: Int64Array,
        first_row: int = 0,
        *,
        only_last: bool = False,
    ) -> Outputs:
        return self.session.run(input_ids_BS, seq_len_B, past_len_B, first_row, only_last=only_last)

    def move(self, source: int, target: int, tokens: int) -> None:
        self.session.move(source, target, tokens)

    def swap(self, row: int, other: int, tokens: int) -> None:
        self.session.swap(row, other, tokens)

    def clear(self, row: int) -> None:
        self.session.clear(row)

    def close(self) -> None:
        self.session.close()


class RecordingSession(PassingSession):
    """Writes the calls down."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.calls: list[Call] = []
        self.moves: list[tuple[int, int, int]] = []
        self.swaps: list[tuple[int, int, int]] = []

    def run(
        self,
        input_ids_BS: Int64Array,
        seq_len_B: Int64Array,
        past_len_B: Int64Array,
        first_row: int = 0,
        *,
        only_last: bool = False,
    ) -> Outputs:
        self.calls.append(Call(first_row, tuple(seq_len_B.tolist()), input_ids_BS.shape[1]))
        return super().run(input_ids_BS, seq_len_B, past_len_B, first_row, only_last=only_last)

    def move(self, source: int, target: int, tokens: int) -> None:
        self.moves.append((source, target, tokens))
        super().move(source, target, tokens)

    def swap(self, row: int, other: int, tokens: int) -> None:
        self.swaps.append((row, other, tokens))
        super().swap(row, other, tokens)


class FailingSession(PassingSession):
    """Raises at the calls of given numbers, and gives NaN for one row at others."""

    def __init__(
        self,
        session: Session,
        *,
        fails: Collection[int] = (),
        error: Exception | None = None,
        nan: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(session)
        self._fails, self._nan = fails, nan or {}
        self._error = error or SessionError("The backend failed.")
        self.cleared: list[int] = []
        self._calls = -1

    def run(
        self,
        input_ids_BS: Int64Array,
        seq_len_B: Int64Array,
        past_len_B: Int64Array,
        first_row: int = 0,
        *,
        only_last: bool = False,
    ) -> Outputs:
        self._calls += 1
        if self._calls in self._fails:
            raise self._error
        logits = (
            super().run(input_ids_BS, seq_len_B, past_len_B, first_row, only_last=only_last)[LOGITS].copy()
        )
        if self._calls in self._nan:
            logits[self._nan[self._calls] - first_row] = np.nan
        return {LOGITS: logits}

    def clear(self, row: int) -> None:
        self.cleared.append(row)
        super().clear(row)


class Bench:
    """A scheduler with everything around it."""

    def __init__(
        self, session: Session, tokenizer: TextTokenizer, *, pinned: Sequence[int] = (), **config: int
    ) -> None:
        self.session = RecordingSession(session)
        self.metrics = RecordedMetrics()
        self.scheduler = Scheduler(
            self.session,
            tokenizer,
            SchedulerConfig(**{"chunk_tokens": 64, **config}),
            self.metrics,
            pinned=pinned,
        )

    def submit(self, *requests: GenerationRequest) -> list[Answer]:
        answers = [Answer() for _ in requests]
        for request, answer in zip(requests, answers, strict=True):
            self.scheduler.submit(request, answer.client)
        return answers

    def run(self, *requests: GenerationRequest) -> list[Answer]:
        """Submits, and steps until there is nothing left to do."""
        answers = self.submit(*requests)
        while self.scheduler.step():
            pass
        return answers


def run_alone(
    session: Session, tokenizer: TextTokenizer, request: GenerationRequest, chunk: int = 64
) -> tuple[str, list[int], list[Float32Array]]:
    """The reference: one request, one row, one token after another; text, tokens and logits of each."""
    prompt, past = list(request.prompt_ids), 0
    sampler, stream, stop = Sampler(request.sampling), tokenizer.stream(), StopTexts(request.stop)
    text, tokens, logits = "", list[int](), list[Float32Array]()
    ids: Sequence[int] = prompt[:chunk]
    while True:
        count = np.array([len(ids)])
        logits_BSV = session.step(np.array([ids]), count, np.array([past]))
        row = last_token_logits(logits_BSV, count)[0].copy()
        past += len(ids)
        if past < len(prompt):
            ids = prompt[past : past + chunk]
            continue
        logits.append(row)
        tokens.append(sampler.sample(row[: tokenizer.vocab_size]))
        if tokens[-1] in tokenizer.eos_ids:
            break
        text += stop.push(stream.push(tokens[-1]))
        if stop.found or len(tokens) >= request.max_new_tokens:
            break
        ids = tokens[-1:]
    rest = "" if stop.found else stop.push(stream.finish()) + stop.finish()
    return text + rest, tokens, logits


def explain_difference(
    tokenizer: TextTokenizer, text: str, alone: tuple[str, list[int], list[Float32Array]]
) -> str | None:
    """Why a text differs from the one alone; None where it does not, or differs after a near tie."""
    alone_text, tokens, logits = alone
    if text == alone_text:
        return None
    for index in range(len(tokens)):
        if not text.startswith(tokenizer.decode(tokens[: index + 1]).rstrip("\ufffd")):
            best = np.sort(logits[index])[-2:]
            gap = float(best[1] - best[0])
            if gap <= NEAR_TIE:
                return None
            return f"token {index}: logits differ by {gap:.2e}; {text!r} instead of {alone_text!r}"
    return f"{text!r} instead of {alone_text!r}"
