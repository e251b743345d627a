"""Freed memory back to the system.

glibc keeps what is freed for later: of a model that was freed, a good part stays with the process.
"""

from __future__ import annotations

import ctypes


def return_free_memory() -> None:
    """Gives back what this process has freed; does nothing with a C library that is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
