"""Paths that the server hands to a shell as they stand: it starts each model's process with `bash -c`."""

from __future__ import annotations

import re
from pathlib import Path

from r1trt.errors import UnavailableError

_PLAIN = re.compile(r"[\w./:@%+=,-]+", re.ASCII)


def require_plain_path(path: Path, *, fix: str) -> None:
    """Refuses a path that the server cannot start a model with.

    Engines and repositories may lie anywhere: the server is given a link.

    Args:
        path: Where the server, or what it is given, lies.
        fix: What to do about it.

    Raises:
        UnavailableError: It has spaces, or characters that a shell reads, or is not ASCII.
    """
    if not _PLAIN.fullmatch(str(path)):
        raise UnavailableError(
            "The bundled server starts no models with this path: it hands it to a shell.",
            where=path,
            expected="ASCII letters, digits and . _ - / : @ % + = ,",
            fix=fix,
        )
