"""How likely a model takes tokens to be.

Legend: S tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """One token, and what the model thought of it and of others in its place.

    Attributes:
        token: Its id.
        logprob: Natural logarithm of its probability, without temperature, top-k and top-p. None for the
            first token of a prompt, which nothing predicts.
        top: The most likely tokens and theirs, the most likely one first.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


def log_softmax(logits_SV: Array) -> npt.NDArray[np.float64]:
    """Log-probabilities over the last axis, in FP64."""
    shifted_SV = logits_SV.astype(np.float64)
    shifted_SV -= shifted_SV.max(axis=-1, keepdims=True)
    shifted_SV -= np.log(np.exp(shifted_SV).sum(axis=-1, keepdims=True))
    return shifted_SV


def token_logprob(logits_V: Array, token: int, top: int, vocab_size: int) -> TokenLogprob:
    """Reads a token's log-probability off the logits that it was chosen from.

    Args:
        logits_V: Finite logits `[V]`.
        token: The token that follows.
        top: How many of the most likely tokens are wanted beside it.
        vocab_size: Tokens that there are; what V has beyond them is padding, and among the most likely none.
    """
    log_p_V = log_softmax(logits_V)
    likely = _most_likely(log_p_V[:vocab_size], top)
    return TokenLogprob(token=token, logprob=float(log_p_V[token]), top=likely)


def _most_likely(log_p_V: npt.NDArray[np.float64], count: int) -> tuple[tuple[int, float], ...]:
    count = min(count, len(log_p_V))
    if count == 0:
        return ()
    found = np.argpartition(-log_p_V, count - 1)[:count]
    # By token where two are equally likely, so that the order does not depend on the partition.
    order = sorted(found.tolist(), key=lambda token: (-log_p_V[token], token))
    return tuple((token, float(log_p_V[token])) for token in order)
