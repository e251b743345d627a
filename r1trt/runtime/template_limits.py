"""Limits of foreign code that Python itself runs, such as a chat template: time, and memory that it takes.

Jinja's sandbox keeps a template from files and attributes, and lets it run for hours.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SECONDS, MEMORY_BYTES = 10.0, 512 * 10**6
TEMPLATE = "<template>"
"""What Jinja calls the code that it makes of a template without a name."""
MOST_CHARACTERS = 10**7
"""Of a text, or elements of a list, that a single operation makes."""


class LimitError(Exception):
    """The code took more than it may."""


@contextmanager
def limited(seconds: float = SECONDS, memory: int = MEMORY_BYTES) -> Iterator[None]:
    """Ends what runs inside with LimitError, at the first line of Python behind a limit.

    It is the interpreter's trace function that looks at clock and memory, so one operation in C is not
    interrupted. Only the calling thread is watched.
    """
    deadline, before, previous = time.monotonic() + seconds, _peak_memory(), sys.gettrace()

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > deadline:
            raise LimitError(f"it runs for more than {seconds:.0f} seconds")
        if _peak_memory() - before > memory:
            raise LimitError(f"it takes more than {memory // 10**6} MB of memory")
        # Of Jinja's own functions the calls are enough.
        return watch if frame.f_code.co_filename == TEMPLATE else None

    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(previous)


def require_small_product(left: Any, right: Any) -> None:
    """Raises LimitError for a text or list times a number that would be too long."""
    for sequence, count in ((left, right), (right, left)):
        repeats = hasattr(sequence, "__len__") and isinstance(count, int)
        if repeats and len(sequence) * count > MOST_CHARACTERS:
            raise LimitError(f"it repeats something to more than {MOST_CHARACTERS} elements")


def require_small_power(base: Any, exponent: Any) -> None:
    """Raises LimitError for a power of integers with more digits than anything needs."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > MOST_CHARACTERS:
        raise LimitError("it raises a number to a power of millions of digits")


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
