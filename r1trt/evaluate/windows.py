"""The text that models are compared on, cut into windows of tokens.

Legend: T tokens of one window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from r1trt.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Window:
    """One piece of text, read from an empty cache.

    Attributes:
        input_ids: Token ids, int64 [T].
        targets: The token that follows each, int64 [T]; -1 where the text ends.
    """

    input_ids: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]


def windows_from_ids(encoded: Sequence[Sequence[int]], *, size: int, max_tokens: int) -> list[Window]:
    """Cut documents into windows of at most `size` tokens, about `max_tokens` in all.

    Where there is more text than that, short documents are taken first: prompts are not crowded out by one
    long text.

    Args:
        encoded: Each document's token ids.
        size: Most tokens of a window.
        max_tokens: Most tokens in all.

    Raises:
        ConfigError: No document has two tokens.
    """
    windows: list[Window] = []
    left = max_tokens
    for ids in sorted(encoded, key=len):
        taken = ids[: max(left, 0)]
        if len(taken) > 1:
            windows += _windows_of_document(taken, size)
            left -= len(taken)
    if not windows:
        raise ConfigError("The text is too short to compare on.", expected="at least two tokens")
    return windows


def _windows_of_document(ids: Sequence[int], size: int) -> Iterator[Window]:
    following = [*ids[1:], -1]
    for start in range(0, len(ids), size):
        window = slice(start, start + size)
        yield Window(input_ids=np.array(ids[window], np.int64), targets=np.array(following[window], np.int64))
