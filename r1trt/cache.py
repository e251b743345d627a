"""The one directory where results of long work are kept between commands."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from r1trt.errors import ConfigError

CACHE_VARIABLE = "R1TRT_CACHE"


def cache_directory() -> Path:
    """$R1TRT_CACHE, else r1trt/ in the user's cache directory ($XDG_CACHE_HOME, else ~/.cache).

    Raises:
        ConfigError: None of them is known.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache").absolute() / "r1trt"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise ConfigError(
            "There is no home directory to keep a cache in.",
            found=f"HOME is not set, and user {os.getuid()} has no entry in the user database",
            fix=f"set {CACHE_VARIABLE} to a folder that this user may write to",
        ) from error


def forget_oldest(entries: Iterable[Path], limit: int) -> None:
    """Removes directories, the longest unused first, until the rest has at most `limit` bytes.

    Args:
        entries: Directories; the modification time of each says when it was used.
        limit: In bytes.
    """
    used: list[tuple[float, Path]] = []
    for entry in entries:
        with suppress(FileNotFoundError):
            used.append((entry.stat().st_mtime, entry))
    kept = 0
    for _, entry in sorted(used, reverse=True):
        kept += _bytes_of(entry)
        if kept > limit:
            shutil.rmtree(entry, ignore_errors=True)


def _bytes_of(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total
