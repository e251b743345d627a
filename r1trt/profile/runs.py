"""Answering a batch with a session, call by call, with a clock beside it.

Legend: B rows, S tokens of one call, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from r1trt.profile.requests import Phase, RequestBatch
from r1trt.progress import Progress
from r1trt.runtime.prefill import prefill_outputs
from r1trt.runtime.session import LOGITS, Int64Array, Session, last_token_logits

_SEED = 0


@dataclass(frozen=True, kw_only=True)
class TimedCall:
    """One call of a session.

    Attributes:
        phase: Its phase; None for a call that warms the session up.
        round: Which repetition of its phase it belongs to.
        seconds: What it took.
    """

    phase: Phase | None
    round: int
    seconds: float


def prompts_of(requests: RequestBatch, vocab_size: int) -> Sequence[Sequence[int]]:
    """The prompts' token ids; random ones where only lengths are known."""
    if requests.token_ids:
        return requests.token_ids
    generator = np.random.default_rng(_SEED)
    return [generator.integers(0, vocab_size, length).tolist() for length in requests.prompt_tokens]


def timed_calls(
    session: Session, requests: RequestBatch, *, repeats: int, progress: Progress
) -> Iterator[TimedCall]:
    """Prefills as often as is asked for, after one that warms up, then decodes behind the last of them.

    Args:
        session: A loaded engine.
        requests: What is answered; the most likely token follows each.
        repeats: Prefills that count.
        progress: Called with (phase, done, total).

    Raises:
        SessionError: The batch does not fit the session, or the backend failed.
    """
    prompts = prompts_of(requests, session.limits.vocab_size)
    last_B = np.zeros(requests.size, np.int64)
    for index in range(-1, repeats):
        progress("prefill", index + 1, repeats + 1)
        started = time.perf_counter()
        for _, seq_len_B, outputs in prefill_outputs(session, prompts):
            seconds = time.perf_counter() - started
            last_B = _next_tokens(last_B, outputs[LOGITS], seq_len_B)
            yield TimedCall(phase="prefill" if index >= 0 else None, round=index, seconds=seconds)
            started = time.perf_counter()
    length_B = np.asarray(requests.prompt_tokens, np.int64)
    one_B = np.ones(requests.size, np.int64)
    for index in range(requests.new_tokens - 1):
        progress("decode", index, requests.new_tokens - 1)
        started = time.perf_counter()
        logits_BSV = session.step(last_B[:, None], one_B, length_B + index)
        yield TimedCall(phase="decode", round=0, seconds=time.perf_counter() - started)
        last_B = _next_tokens(last_B, logits_BSV, one_B)


def _next_tokens(last_B: Int64Array, logits_BSV: np.ndarray, seq_len_B: Int64Array) -> Int64Array:
    """The most likely tokens, of the rows that had any in the call."""
    found = last_token_logits(logits_BSV, seq_len_B).argmax(-1).astype(np.int64)
    return np.where(seq_len_B > 0, found, last_B)
