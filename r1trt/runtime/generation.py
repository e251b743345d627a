"""One sequence, generated token by token.

Legend: B rows, here 1; S tokens of one call; V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from r1trt.runtime.continuation import Continuation, FinishReason
from r1trt.runtime.prefill import common_beginning, prefill
from r1trt.runtime.prompt_lookup import PromptLookup, most_drafted, require_all_logits
from r1trt.runtime.sampling import SamplingConfig
from r1trt.runtime.session import Float32Array, Session, SessionError


@dataclass(frozen=True, kw_only=True)
class GenerationStatistics:
    """What a generation did.

    Attributes:
        prompt_tokens: Tokens of the prompt, template included.
        held_tokens: Those of them that the cache held already.
        new_tokens: Tokens generated, the end-of-sequence token included.
        thinking_tokens: Those of them between `<think>` and `</think>`, tags included.
        answer_tokens: The others.
        load_seconds: Loading the model.
        time_to_first_token: Seconds from the prompt to the first token.
        prefill_tokens_per_second: Prompt tokens that were read by that time.
        decode_tokens_per_second: New tokens after the first by their time; None where there is only one.
        finish_reason: "eos", "stop" (a stop text), "length" (max_new_tokens) or "capacity" (cache full).
        sampling: How the tokens were chosen.
        drafted_tokens: Tokens of drafts that were looked up; None where none were.
        accepted_tokens: Those of them that were chosen.
    """

    prompt_tokens: int
    held_tokens: int
    new_tokens: int
    thinking_tokens: int
    answer_tokens: int
    load_seconds: float
    time_to_first_token: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float | None
    finish_reason: FinishReason
    sampling: SamplingConfig
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers and strings, for JSON."""
        return asdict(self)


class Generation:
    """A running generation: iterate for the text; `statistics` is set at the end.

    Args:
        session: A loaded model. Its table is reset to one row.
        prompt_ids: The prompt.
        continuation: Chooses the tokens that follow, and says when to end.
        sampling: How the continuation chooses them, for the statistics.
        held_ids: What the session's row holds from a generation before; as much of it as the prompt begins
            with is not read again.
        prompt_lookup: Tokens of a draft that is looked up, at most; 0 drafts nothing.
        notes: What a user should know of how the text comes about.
        load_seconds: For the statistics.

    Raises:
        SessionError: The model has no KV cache.
        ConfigError: Drafts are to be checked, and the model gives logits of a call's last token only.
    """

    def __init__(
        self,
        session: Session,
        prompt_ids: Sequence[int],
        continuation: Continuation,
        *,
        sampling: SamplingConfig,
        held_ids: Sequence[int] = (),
        prompt_lookup: int = 0,
        notes: tuple[str, ...] = (),
        load_seconds: float = 0.0,
    ) -> None:
        if session.limits.capacity is None:
            raise SessionError(
                "A scoring engine cannot generate: it has no KV cache.", fix="build without --no-cache"
            )
        self._session = session
        self._prompt_ids = list(prompt_ids)
        self._continuation = continuation
        self._sampling = sampling
        # The prompt's last token is always read, for its logits.
        self._held = common_beginning(held_ids, self._prompt_ids[:-1])
        self._load_seconds = load_seconds
        self._capacity = session.limits.capacity
        self._lookup = PromptLookup(prompt_ids, prompt_lookup) if prompt_lookup else None
        if self._lookup is not None:
            require_all_logits(session.limits.last_token_logits)
        self.notes = notes
        self.token_ids: list[int] = []
        self.statistics: GenerationStatistics | None = None

    def __iter__(self) -> Iterator[str]:
        """Yields pieces of text, each whole characters.

        Raises:
            SessionError: The prompt does not fit the cache, or the backend failed.
        """
        started = time.perf_counter()
        first_token_at = started
        reason: FinishReason = "capacity"
        for logits_V in self._logits():
            piece = self._continuation.take(logits_V)
            if not self.token_ids:
                first_token_at = time.perf_counter()
            self.token_ids.append(piece.token)
            if self._lookup is not None:
                self._lookup.add(piece.token)
            if piece.text:
                yield piece.text
            if piece.finish_reason is not None:
                reason = piece.finish_reason
                break
        if text := self._continuation.held_back():
            yield text
        self.statistics = self._statistics(started, first_token_at, reason)

    @property
    def held_ids(self) -> list[int]:
        """What the session's row holds by now, for a generation that goes on from it."""
        # The last token was chosen, and not fed.
        return [*self._prompt_ids, *self.token_ids[:-1]] if self.token_ids else []

    def _logits(self) -> Iterator[Float32Array]:
        """Logits `[V]` of each next token, until the cache is full."""
        yield prefill(self._session, [self._prompt_ids], held=self._held)[0]
        past = len(self._prompt_ids)
        # A token enters the cache only when another one is wanted.
        while past < self._capacity:
            draft = self._draft(past)
            ids_BS = np.array([[self.token_ids[-1], *draft]], dtype=np.int64)
            logits_SV = self._session.step(ids_BS, np.array([ids_BS.size]), np.array([past]))[0]
            for place in range(ids_BS.size):
                yield logits_SV[place]
                past += 1
                if place == len(draft) or self.token_ids[-1] != draft[place]:
                    break

    def _draft(self, past: int) -> list[int]:
        """Tokens that may follow the last one. Those that do not stay in the cache's row, behind the text."""
        if self._lookup is None:
            return []
        return self._lookup.draft(most_drafted(self._session.limits, past))

    def _statistics(
        self, started: float, first_token_at: float, reason: FinishReason
    ) -> GenerationStatistics:
        to_first = first_token_at - started
        decoding = time.perf_counter() - first_token_at
        following = len(self.token_ids) - 1
        thinking = self._continuation.thinking_tokens
        return GenerationStatistics(
            prompt_tokens=len(self._prompt_ids),
            held_tokens=self._held,
            new_tokens=len(self.token_ids),
            thinking_tokens=thinking,
            answer_tokens=len(self.token_ids) - thinking,
            load_seconds=self._load_seconds,
            time_to_first_token=to_first,
            prefill_tokens_per_second=(len(self._prompt_ids) - self._held) / to_first,
            decode_tokens_per_second=following / decoding if following else None,
            finish_reason=reason,
            sampling=self._sampling,
            drafted_tokens=self._lookup.drafted if self._lookup else None,
            accepted_tokens=self._lookup.accepted if self._lookup else None,
        )
