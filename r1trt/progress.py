"""How long work reports how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as `progress(phase, done, total)`; `total` 0 means that the amount of work is unknown."""


def ignore(phase: str, done: int, total: int) -> None:
    """The progress of a caller who does not want to know."""
