"""Calibration text, cut into token sequences of one length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from r1trt.errors import PlanError

MIN_TOKENS = 256

TokenChunks = list[NDArray[np.int64]]


def require_tokens(found: int, *, text: str) -> None:
    """Refuse what is too short to measure on.

    Args:
        found: Tokens that there are.
        text: Which text it is, as its option is called.

    Raises:
        PlanError: There are less than `MIN_TOKENS`.
    """
    if found < MIN_TOKENS:
        raise PlanError(
            f"The {text} text is too short to measure on.",
            found=f"{found} tokens",
            expected=f"at least {MIN_TOKENS}",
            fix=f"pass a longer text with --{text}",
        )


def token_chunks(encoded: Sequence[Sequence[int]], *, length: int, tokens: int) -> TokenChunks:
    """Cut documents into chunks of `length` tokens, taken from all documents in turn.

    Args:
        encoded: Each document's token ids.
        length: Tokens of a chunk; the rest of a document is left out unless it is at least half a chunk.
        tokens: Tokens wanted in all.

    Returns:
        int64 [n] arrays, n <= length.

    Raises:
        PlanError: The text is too short to measure ranges on.
    """
    taken: TokenChunks = []
    for chunk in _in_turn(_usable([np.asarray(ids, np.int64) for ids in encoded], length)):
        if sum(map(len, taken)) >= tokens:
            break
        taken.append(chunk)
    require_tokens(sum(map(len, taken)), text="calibration")
    return taken


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
