"""Calibration text, cut into token sequences of one length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from r1trt.calibrate.options import MIN_TOKENS
from r1trt.errors import PlanError

_READ_TIMES = 16
"""Documents are read up to so many times the tokens that are wanted, so that as many have their turn."""

TokenChunks = list[NDArray[np.int64]]


def require_tokens(found: int, *, text: str, window: int = 0) -> None:
    """Refuse what is too short to measure on.

    Args:
        found: Tokens that there are.
        text: Which text it is, as its option is called.
        window: Tokens of a window, which the text has to fill.

    Raises:
        PlanError: There are less.
    """
    needed = max(window, MIN_TOKENS)
    if found < needed:
        raise PlanError(
            f"The {text} text is too short to measure on.",
            found=f"{found} tokens",
            expected=f"at least {needed} tokens" + (": one window" if needed == window else ""),
            fix=f"pass a longer text with --{text}",
        )


def token_chunks(encoded: Iterable[Sequence[int]], *, length: int, tokens: int) -> TokenChunks:
    """Cut documents into chunks of `length` tokens, taken from all documents in turn.

    Args:
        encoded: Each document's token ids; no more are asked for than the tokens can come from.
        length: Tokens of a chunk; the rest of a document is left out unless it is at least half a chunk.
        tokens: Tokens wanted in all.

    Returns:
        int64 [n] arrays, n <= length.

    Raises:
        PlanError: The text is too short to measure ranges on.
    """
    taken: TokenChunks = []
    for chunk in _in_turn(_usable(_read(encoded, length, tokens), length)):
        if sum(map(len, taken)) >= tokens:
            break
        taken.append(chunk)
    require_tokens(sum(map(len, taken)), text="calibration", window=min(length, tokens))
    return taken


def _read(encoded: Iterable[Sequence[int]], length: int, tokens: int) -> TokenChunks:
    """Documents, each up to `tokens` tokens, until their first chunks or many short ones are enough."""
    documents: TokenChunks = []
    first = whole = 0
    for ids in encoded:
        documents.append(np.asarray(ids[: tokens + length], np.int64))
        size = len(documents[-1])
        first += min(size, length) if 2 * size >= length else 0
        whole += size
        if first >= tokens or whole >= _READ_TIMES * tokens:
            break
    return documents


def _usable(documents: TokenChunks, length: int) -> list[TokenChunks]:
    """Each document's chunks of half a length or more; if there are none, all documents' together."""
    usable = [[chunk for chunk in _cut(ids, length) if 2 * len(chunk) >= length] for ids in documents]
    if any(usable):
        return usable
    return [_cut(np.concatenate([np.zeros(0, np.int64), *documents]), length)]


def _cut(ids: NDArray[np.int64], length: int) -> TokenChunks:
    return [ids[start : start + length] for start in range(0, len(ids), length)]


def _in_turn(documents: Sequence[TokenChunks]) -> TokenChunks:
    """All documents' first chunks, then their second ones, and so on."""
    depth = max(map(len, documents))
    return [chunks[index] for index in range(depth) for chunks in documents if index < len(chunks)]
