"""The lock of the one process that writes a directory."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from r1trt.artifacts.disk import FULL, disk_full
from r1trt.artifacts.errors import ArtifactError
from r1trt.lifetime.ending import removed_at_ending

_WAIT_STEP_S = 0.05


@contextmanager
def locked_for_writing(target: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Holds `.T.lock`. The kernel drops the lock when its process dies, however it dies.

    Args:
        target: The directory.
        wait_s: How long another process is waited for, in seconds.

    Raises:
        ArtifactError: Another process holds it.
    """
    path = target.with_name(f".{target.name}.lock")
    descriptor = _locked(path, target, time.monotonic() + wait_s)
    try:
        with removed_at_ending(path):
            yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
        os.close(descriptor)


def _locked(path: Path, target: Path, give_up: float) -> int:
    """Descriptor of the lock file, once nobody else holds it."""
    while True:
        descriptor = _opened(path, target)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if time.monotonic() < give_up:
                time.sleep(_WAIT_STEP_S)
                continue
            raise ArtifactError(
                "another process is writing this directory",
                where=target,
                found=f"lock {path} is held",
                fix="wait for it to end, or choose another output directory",
            ) from error
        # NOTES: the file may have been removed by its last holder between open and flock.
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                return descriptor
        os.close(descriptor)


def _opened(path: Path, target: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise disk_full(target, "room for one more file", error) from error
