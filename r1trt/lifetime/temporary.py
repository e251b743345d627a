"""Temporary directories and unfinished files that do not outlive their process for long, however it ends."""

from __future__ import annotations

import glob
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r1trt.errors import R1TrtError
from r1trt.lifetime.ending import remove, removed_at_ending
from r1trt.lifetime.identity import ProcessIdentity

PREFIX = "r1trt-"


@contextmanager
def temporary_directory(purpose: str) -> Iterator[Path]:
    """Makes an empty directory, and removes it at the end of the block, or of the process.

    What a killed process left is removed here too: the names say whose they are.

    Args:
        purpose: A word for the name.

    Raises:
        R1TrtError: There is no place to write to.
    """
    try:
        parent = Path(tempfile.gettempdir())
        remove_left_behind(parent)
        name = f"{PREFIX}{purpose}-{ProcessIdentity.own()}-"
        path = Path(tempfile.mkdtemp(prefix=name, dir=parent))
    except OSError as error:
        raise R1TrtError(
            "A temporary directory cannot be made.",
            where=error.filename,
            found=error.strerror,
            fix="free some space there, or set TMPDIR to a folder on another disk",
        ) from error
    with removed_at_ending(path):
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """A hidden name beside `target` for what will take its place: rename it when it is whole.

    What is still there at the end of the block, or of the process, is removed; so is what a killed process
    left of the same target.
    """
    start = f".{target.name}.tmp-"
    for stale in target.parent.glob(f"{glob.escape(start)}*-*"):
        remove_if_left_behind(stale)
    path = target.with_name(f"{start}{ProcessIdentity.own()}-{secrets.token_hex(4)}")
    with removed_at_ending(path):
        try:
            yield path
        finally:
            remove(path)


def remove_left_behind(parent: Path) -> None:
    """Removes directories of `temporary_directory` in `parent` whose processes are dead."""
    for path in parent.glob(f"{PREFIX}*-*-*"):
        remove_if_left_behind(path)


def remove_if_left_behind(path: Path) -> None:
    """Removes what this module named, where its process is dead; leaves what it did not name."""
    parts = path.name.split("-")
    identity = ProcessIdentity.from_text(parts[-2]) if len(parts) > 1 else None
    if identity is not None and identity.is_dead:
        remove(path)
