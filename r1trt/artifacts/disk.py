"""Bytes on the disk: room for them, copies that share blocks, hashes, and one file replaced at once."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
from pathlib import Path

from r1trt.artifacts.errors import ArtifactError, DiskFullError
from r1trt.errors import R1TrtError
from r1trt.files import UNLIMITED, open_file, text_of_file
from r1trt.lifetime.temporary import unfinished

_MOUNTS_BYTES = 1 << 24
COPY_CHUNK_BYTES = 1 << 24
FICLONE = 0x40049409
# NOTES: "no room", "over quota" and "file too large for this file system or limit" are one matter to a user.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM)


def sha256_of_file(path: Path) -> str:
    """Returns the SHA-256 of a file's contents, in hex; reads it in pieces.

    Raises:
        ArtifactError: It is no regular file, or cannot be read.
    """
    with open_file(path, error=ArtifactError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_free_space(directory: Path, needed: int) -> None:
    """Refuses to start what cannot end.

    Args:
        directory: Where the result goes; it need not exist yet.
        needed: Bytes that will be written.

    Raises:
        DiskFullError: The file system has less room for this user.
    """
    free = shutil.disk_usage(_existing_parent(directory)).free
    if free < needed:
        raise disk_full(directory, f"{needed} bytes")


def disk_full(where: Path, needed: str, error: OSError | None = None) -> DiskFullError:
    """The error for a disk without room.

    Args:
        where: What could not be written.
        needed: How much room it takes.
        error: What the operating system said.
    """
    free = shutil.disk_usage(_existing_parent(where)).free
    reason = f" ({os.strerror(error.errno or 0)})" if error is not None else ""
    return DiskFullError(
        "not enough room on the disk",
        where=where,
        found=f"{free} bytes free{reason}",
        expected=needed,
        fix="free some space, or choose an output directory on another disk",
    )


def copy_file(source: Path, target: Path, *, limit: int = UNLIMITED) -> None:
    """Copies a file's contents to the disk; shares the blocks where the file system can (reflink).

    Args:
        source: A file; links are followed.
        target: A path that does not exist yet.
        limit: Bytes that the source may have at most.

    Raises:
        ArtifactError: The source cannot be read, or is larger.
        DiskFullError: There is no room for it.
        OSError: The target exists already.
    """
    with open_file(source, limit=limit, error=ArtifactError) as reader, target.open("xb") as writer:
        size = os.fstat(reader.fileno()).st_size
        try:
            if not _clone(reader.fileno(), writer.fileno()):
                _copy_range(reader.fileno(), writer.fileno())
            os.fsync(writer.fileno())
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise disk_full(target, f"{size} bytes", error) from error
        copied = os.fstat(writer.fileno()).st_size
    if copied != size:
        raise ArtifactError("file changed while it was copied", where=source, found=copied, expected=size)


def link_or_copy_file(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`, or a copy of it where the file system has no such links."""
    try:
        os.link(source, target)
    except OSError:
        copy_file(source, target)


def replace_file(path: Path, content: str | bytes) -> None:
    """Writes a file so that the old one or the new one is there at any time, whole."""
    data = content.encode() if isinstance(content, str) else content
    try:
        with unfinished(path) as temporary:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise disk_full(path, f"{len(data)} bytes", error) from error


def is_mount_point(path: Path) -> bool:
    """Whether a file system, or a part of one, is mounted at a path."""
    try:
        mounts = text_of_file(Path("/proc/self/mountinfo"), limit=_MOUNTS_BYTES)
    except R1TrtError:
        return os.path.ismount(path)
    # proc(5): the fifth field, in which blanks, tabs, line ends and backslashes are octal numbers.
    points = {line.split(" ")[4] for line in mounts.splitlines()}
    spelled = re.sub(r"[ \t\n\\]", lambda match: f"\\{ord(match[0]):03o}", str(path.resolve()))
    return spelled in points


def _existing_parent(path: Path) -> Path:
    path = Path(os.path.abspath(path))
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return False
        raise
    return True


def _copy_range(source: int, target: int) -> None:
    """Copies in the kernel, or through memory where that is not supported; both from the files' positions."""
    try:
        while os.copy_file_range(source, target, COPY_CHUNK_BYTES):
            pass
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
    # NOTES: also the way on when copy_file_range stops early, which it does on some network file systems.
    while chunk := os.read(source, COPY_CHUNK_BYTES):
        view = memoryview(chunk)
        while view:
            view = view[os.write(target, view) :]
