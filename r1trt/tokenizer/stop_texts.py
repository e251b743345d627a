"""Texts that end a generation."""

from __future__ import annotations

from collections.abc import Sequence


def unfinished_length(text: str, wanted: Sequence[str]) -> int:
    """Characters at the end of a text that may become one of the texts wanted: those must be held back."""
    starts = ((n, whole) for whole in wanted for n in range(1, min(len(whole), len(text) + 1)))
    return max((n for n, whole in starts if text.endswith(whole[:n])), default=0)


class StopTexts:
    """Passes text through until a stop text appears; holds back what may still become one.

    Args:
        texts: The stop texts, none empty.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)
        self._held = ""
        self.found = False

    @property
    def is_undecided(self) -> bool:
        """Text is held back."""
        return bool(self._held)

    def push(self, piece: str) -> str:
        """Takes text and returns what can be given out."""
        text = self._held + piece
        starts = [start for stop in self._texts if (start := text.find(stop)) >= 0]
        if starts:
            self.found, self._held = True, ""
            return text[: min(starts)]
        certain = len(text) - unfinished_length(text, self._texts)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """Returns what was held back."""
        held, self._held = self._held, ""
        return held
