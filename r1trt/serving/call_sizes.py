"""How many prompt tokens one call reads, by what the machine does with them.

Larger calls read prompts faster up to some size, and hold up the running requests for longer. Both are
measured when a server starts; nothing changes while it runs, so that where prompts are cut depends on nothing
else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from r1trt.runtime.session import Session

LEAST_TOKENS, MOST_TOKENS, MOST_OF_CALL = 16, 128, 512
# A piece grows while twice its size takes at most this part of the time for each token.
_WORTH = 0.85
# Prompts share a call while it takes at most as long as so many tokens of a full house.
_TOKENS_OF_OTHERS = 4
# A call that takes longer is not measured twice.
_LONG_S = 0.5


@dataclass(frozen=True, kw_only=True)
class CallSizes:
    """Bounds of the calls that read prompts.

    Attributes:
        piece: Tokens of one prompt.
        call: Tokens of all prompts of one call, padding included.
    """

    piece: int
    call: int


def piece_of_prompt(most: int, unread: int) -> int:
    """Tokens of a prompt that a call reads: `most`, but such that none is left for a call of its own.

    Attention has another kernel, and so other numbers, for a single token.
    """
    size = min(most, unread)
    return size - 1 if unread - size == 1 and size > 2 else size


def measured_call_sizes(session: Session) -> CallSizes:
    """Measures a session, whose rows are empty afterwards.

    Raises:
        SessionError: A call failed.
    """

    def seconds(rows: int, tokens: int) -> float:
        ids, zeros = np.zeros((rows, tokens), np.int64), np.zeros(rows, np.int64)
        started = time.perf_counter()
        session.step(ids, zeros + tokens, zeros, only_last=True)
        return time.perf_counter() - started

    def best_seconds(rows: int, tokens: int) -> float:
        first = seconds(rows, tokens)
        return first if first > _LONG_S else min(first, *(seconds(rows, tokens) for _ in range(2)))

    limits = session.limits
    most = min(limits.max_input_len or MOST_TOKENS, limits.capacity or MOST_TOKENS)
    sizes = call_sizes(best_seconds, session.rows, most)
    session.reset(session.rows)
    return sizes


def call_sizes(seconds: Callable[[int, int], float], rows: int, most: int) -> CallSizes:
    """Chooses sizes by the times of calls.

    Args:
        seconds: Time of a call of so many rows of so many tokens.
        rows: Requests that may run at a time.
        most: Tokens that one row of a call can have.
    """
    piece = min(LEAST_TOKENS, most)
    of_token = seconds(1, piece) / piece
    while 2 * piece <= min(most, MOST_TOKENS):
        of_larger = seconds(1, 2 * piece) / (2 * piece)
        if of_larger > _WORTH * of_token:
            break
        piece, of_token = 2 * piece, of_larger
    call = int(_TOKENS_OF_OTHERS * seconds(rows, 1) / of_token)
    return CallSizes(piece=piece, call=min(max(call, piece), MOST_OF_CALL))
