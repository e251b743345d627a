"""Texts that end a generation."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Passes text through until a stop text appears; holds back what may still become one.

    Args:
        texts: The stop texts, none empty.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Takes text and returns what can be given out."""
        text = self._held + piece
        starts = [start for stop in self._texts if (start := text.find(stop)) >= 0]
        if starts:
            self.found, self._held = True, ""
            return text[: min(starts)]
        keep = max(
            (n for stop in self._texts for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
        )
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Returns what was held back."""
        held, self._held = self._held, ""
        return held
