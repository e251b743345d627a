"""Standard streams as the caller left them: closed, or in an encoding without most of Unicode; kept clean."""

from __future__ import annotations

import ctypes
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def open_closed_streams() -> None:
    """Opens /dev/null for what was closed (`2>&-`): the next file opened would take its number otherwise."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            stream = os.fdopen(number, mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


@contextmanager
def without_stream(number: int) -> Iterator[None]:
    """Keeps from a stream, 1 or 2, what foreign code prints there by itself, past Python."""
    try:
        kept = os.dup(number)
    except OSError:  # closed: there is nothing to keep it from
        yield
        return
    c_library = ctypes.CDLL(None)
    c_library.fflush(None)  # C's own buffer: what stands in it belongs to the stream
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), number)
    try:
        yield
    finally:
        c_library.fflush(None)
        os.dup2(kept, number)
        os.close(kept)


def print_any_text() -> None:
    """Lets characters that the locale has not be printed as question marks: a model writes all of Unicode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
