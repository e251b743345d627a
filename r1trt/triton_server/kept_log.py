"""The server's log behind its end: it lies in a temporary directory, and errors name it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from r1trt.cache import cache_directory
from r1trt.errors import ConfigError
from r1trt.triton_server.process import ServerError

KEPT = "serve.log"


@contextmanager
def kept_log(log: Path) -> Iterator[None]:
    """Keeps a copy of the log in the cache directory where the server fails; the error then names that.

    Args:
        log: Where the server writes; may not exist yet.

    Raises:
        ServerError: The one that is raised inside.
    """
    try:
        yield
    except ServerError as error:
        raise ServerError(error.message, **{**error.details, "where": _copy(log)}) from error


def _copy(log: Path) -> str | None:
    """The copy of the latest failure's log, where one can be made."""
    with suppress(OSError, ConfigError):
        directory = cache_directory()
        directory.mkdir(parents=True, exist_ok=True)
        return str(shutil.copyfile(log, directory / KEPT))
    return None
