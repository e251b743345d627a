"""The hash of a weight file, made while something else reads the file."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from r1trt.errors import CheckpointError
from r1trt.files import open_file

_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """What a file held when it was read.

    Attributes:
        path: The file.
        sha256: Hash of its content, in hex.
        version: Its inode, size and modification time before it was read.
    """

    path: Path
    sha256: str
    version: tuple[int, int, int]

    def require_unmodified(self) -> None:
        """Raises CheckpointError if the file was written or replaced since."""
        if _version(self.path) != self.version:
            raise CheckpointError(
                "A weight file changed while it was used.",
                where=self.path,
                fix="let no other process write to the checkpoint, and start again",
            )


class ContentHash:
    """SHA-256 of a file whose pieces are passed on in the order of the file.

    What is skipped in front of a piece is read here, and what was hashed already is left out, so that the
    whole file is hashed whatever its reader wants of it.

    Args:
        path: The file.
        beside: Hashes one piece while the next one is read.

    Raises:
        CheckpointError: The file cannot be read.
    """

    def __init__(self, path: Path, beside: Executor) -> None:
        self._path, self._beside = path, beside
        self._version = _version(path)
        self._hash, self._position = hashlib.sha256(), 0
        self._pending: Future[None] | None = None

    def add(self, offset: int, piece: memoryview) -> None:
        """Takes bytes that were read at an offset; they must not change any more.

        Raises:
            CheckpointError: What lies in front of them cannot be read.
        """
        if offset > self._position:
            self._read_to(offset)
        self._take(piece[self._position - offset :])

    def content(self) -> FileContent:
        """Reads what is left of the file.

        Raises:
            CheckpointError: It cannot be read.
        """
        self._read_to(self._version[1])
        self._wait()
        return FileContent(path=self._path, sha256=self._hash.hexdigest(), version=self._version)

    def _read_to(self, stop: int) -> None:
        if self._position >= stop:
            return
        try:
            with open_file(self._path) as file:
                file.seek(self._position)
                while self._position < stop:
                    piece = file.read(min(_CHUNK_BYTES, stop - self._position))
                    if not piece:
                        raise CheckpointError("A weight file is too short.", where=self._path)
                    self._take(memoryview(piece))
        except OSError as error:
            raise CheckpointError("A weight file cannot be read.", where=self._path, found=error) from error

    def _take(self, piece: memoryview) -> None:
        # NOTES: one piece at a time: more would only wait in memory.
        self._wait()
        self._position += piece.nbytes
        self._pending = self._beside.submit(self._hash.update, piece)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()


def _version(path: Path) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise CheckpointError("A weight file cannot be read.", where=path, found=error) from error
    return status.st_ino, status.st_size, status.st_mtime_ns
