"""Files from elsewhere: opened without waiting, regular ones only, and read up to the limit of their kind.

Nothing else of the package opens a file that it did not write a moment ago (`tests/test_files.py`).
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from r1trt.errors import CheckpointError, R1TrtError

_MIB = 1 << 20

# Bytes; some times what the largest published models have (DeepSeek-R1: an index of 9 MB, a graph of 26 MB).
CONFIG_BYTES = 4 * _MIB
TEMPLATE_BYTES = _MIB
TOKENIZER_BYTES = 48 * _MIB
INDEX_BYTES = 32 * _MIB
HEADER_BYTES = 32 * _MIB
DOCUMENT_BYTES = 16 * _MIB
PLAN_BYTES = 8 * _MIB
SCALES_BYTES = 64 * _MIB
GRAPH_BYTES = 256 * _MIB
TEXT_BYTES = 4 * _MIB
TIMING_CACHE_BYTES = 256 * _MIB
LIBRARY_BYTES = 1024 * _MIB

UNLIMITED = 1 << 62
"""For weights and engines, which are read in pieces or mapped."""
_FIX = "put the file itself there, as its publisher or an earlier command wrote it"

_POINTER = b"version https://git-lfs.github.com/spec/"


def open_file(
    path: Path, *, limit: int = UNLIMITED, error: type[R1TrtError] = CheckpointError, fix: str = _FIX
) -> BufferedReader:
    """Opens a file for reading, following links.

    Args:
        path: The file.
        limit: Bytes that it may have at most; weights and engines have no limit.
        error: What is raised.
        fix: What to do about it.

    Raises:
        R1TrtError: The file is absent, unreadable, a directory, device or pipe, or larger than the limit.
    """
    try:
        # NOTES: without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as cause:
        reason = getattr(cause, "strerror", None) or str(cause)
        raise error("The file cannot be read.", where=path, found=reason, fix=fix) from cause
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise error("This is not a regular file.", where=path, found=_kind(status.st_mode), fix=fix)
    if status.st_size > limit:
        os.close(descriptor)
        raise _too_large(path, status.st_size, limit, error, fix)
    return os.fdopen(descriptor, "rb")


def is_there(path: Path) -> bool:
    """Whether anything has this name, a pipe or a link that leads nowhere too: opening it says what is wrong.

    Where `is_file()` decides whether a file is left out, one that is damaged would be left out in silence.
    """
    return os.path.lexists(path)


def bytes_of_file(
    path: Path, *, limit: int, error: type[R1TrtError] = CheckpointError, fix: str = _FIX
) -> bytes:
    """Reads a whole file; see `open_file`.

    Raises:
        R1TrtError: Also where it grows beyond the limit while it is read.
    """
    with open_file(path, limit=limit, error=error, fix=fix) as file:
        try:
            # Files of /proc and the like have no size.
            content = file.read(limit + 1)
        except OSError as cause:
            raise error("The file cannot be read.", where=path, found=cause.strerror, fix=fix) from cause
    if len(content) > limit:
        raise _too_large(path, len(content), limit, error, fix)
    require_no_pointer(content, path, error)
    return content


def require_no_pointer(head: bytes, where: Path, error: type[R1TrtError]) -> None:
    """Refuses what git leaves where git-lfs did not run.

    Args:
        head: How a file begins.
        where: The file.
        error: What is raised.

    Raises:
        R1TrtError: It is a pointer of git-lfs.
    """
    if head.startswith(_POINTER):
        raise error(
            "The file is a pointer of git-lfs, and not the file itself.",
            where=where,
            found=head[: len(_POINTER)].decode(),
            fix="run `git lfs pull` in the repository, or download the file again",
        )


def text_of_file(
    path: Path, *, limit: int, error: type[R1TrtError] = CheckpointError, fix: str = _FIX
) -> str:
    """Reads a whole file of UTF-8; see `open_file`.

    Raises:
        R1TrtError: Also where it is not UTF-8.
    """
    try:
        return bytes_of_file(path, limit=limit, error=error, fix=fix).decode("utf-8")
    except UnicodeDecodeError as cause:
        raise error(
            "The file is not text in UTF-8.", where=path, found=cause.reason, expected="UTF-8", fix=fix
        ) from cause


def require_unicode_path(path: Path, error: type[R1TrtError]) -> None:
    """Refuses a path whose bytes are no text: manifests, graphs and libraries hold paths as text.

    Args:
        path: Also what it is relative to counts.
        error: What is raised.

    Raises:
        R1TrtError: It is not Unicode.
    """
    name = os.path.abspath(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as cause:
        raise error(
            "A name in this path is not Unicode text.",
            where=ascii(name),
            found=f"{name[cause.start]!a} at character {cause.start}",
            expected="names in UTF-8",
            fix="rename the folder or file",
        ) from cause


def _too_large(path: Path, size: int, limit: int, error: type[R1TrtError], fix: str) -> R1TrtError:
    found, expected = f"{size} bytes", f"at most {limit} bytes"
    return error(
        "The file is too large for what it should be.", where=path, found=found, expected=expected, fix=fix
    )


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), "a socket")
