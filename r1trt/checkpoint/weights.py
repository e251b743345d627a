"""Compares weights where they lie, bounded in memory: whole tensors are never held."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from r1trt.checkpoint.safetensors_header import TensorRef
from r1trt.errors import CheckpointError
from r1trt.files import open_file

CHUNK_BYTES = 1 << 24


def tensors_are_equal(directory: Path, left: TensorRef, right: TensorRef) -> bool:
    """Says whether two tensors of a checkpoint have the same dtype, shape and bytes.

    Raises:
        CheckpointError: A file is unreadable, or is not what it was when its header was read.
    """
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    pairs = zip(_chunks(directory, left), _chunks(directory, right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def _chunks(directory: Path, ref: TensorRef) -> Iterator[NDArray[np.uint8]]:
    """Yields a tensor's bytes in pieces; a piece is overwritten by the next one."""
    path = directory / ref.file
    buffer = np.empty(min(CHUNK_BYTES, ref.length), dtype=np.uint8)
    with open_file(path) as stream:
        stream.seek(ref.offset)
        for start in range(0, ref.length, CHUNK_BYTES):
            piece = buffer[: min(CHUNK_BYTES, ref.length - start)]
            got = stream.readinto(piece.data)
            if got != piece.size:
                raise CheckpointError(
                    "file shrank after its header was read",
                    where=f"{path}, tensor {ref.name!r}",
                    found=f"{got} bytes at byte {ref.offset + start}",
                    expected=f"{piece.size} bytes",
                    fix="let no other process write to the checkpoint, and start again",
                )
            yield piece
