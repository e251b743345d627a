"""Standard streams as the caller left them: closed, or in an encoding without most of Unicode."""

from __future__ import annotations

import io
import os
import sys


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


def print_any_text() -> None:
    """Lets characters that the locale has not be printed as question marks: a model writes all of Unicode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
