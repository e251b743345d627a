"""Reads and compares weights where they lie, bounded in memory: whole tensors are never held."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from r1trt.checkpoint.safetensors_header import TensorRef
from r1trt.errors import CheckpointError
from r1trt.files import open_file

CHUNK_BYTES = 1 << 24
# Of which FP32 has every value.
_WIDENED = {name: np.dtype(dtype) for name, dtype in (("F32", "<f4"), ("F16", "<f2"), ("BF16", bfloat16))}


def tensors_are_equal(directory: Path, left: TensorRef, right: TensorRef) -> bool:
    """Says whether two tensors of a checkpoint have the same shape and values: bytes where the dtype is one.

    Raises:
        CheckpointError: A file is unreadable, or is not what it was when its header was read.
    """
    if left.shape != right.shape:
        return False
    if left.dtype == right.dtype:
        pairs = zip(tensor_bytes(directory, left), tensor_bytes(directory, right), strict=True)
        return all(np.array_equal(a, b) for a, b in pairs)
    if left.dtype not in _WIDENED or right.dtype not in _WIDENED:
        return False
    values = zip(_values(directory, left), _values(directory, right), strict=True)
    return all(np.array_equal(a, b) for a, b in values)


def _values(directory: Path, ref: TensorRef) -> Iterator[NDArray[np.float32]]:
    """Yields a tensor's values, as many at a time whatever the dtype."""
    dtype = _WIDENED[ref.dtype]
    for piece in tensor_bytes(directory, ref, CHUNK_BYTES // 4 * dtype.itemsize):
        yield piece.view(dtype).astype(np.float32)


def tensor_bytes(
    directory: Path, ref: TensorRef, size: int = CHUNK_BYTES, *, start: int = 0, stop: int | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yields a tensor's bytes in pieces; a piece is overwritten by the next one.

    Args:
        directory: The checkpoint's directory.
        ref: The tensor.
        size: Most bytes of a piece.
        start: The first byte of the tensor that is wanted.
        stop: The first byte behind them; None means the tensor's end.

    Raises:
        CheckpointError: The file is unreadable, or is not what it was when its header was read.
    """
    path, end = directory / ref.file, ref.length if stop is None else stop
    buffer = np.empty(min(size, end - start), dtype=np.uint8)
    with open_file(path) as stream:
        stream.seek(ref.offset + start)
        for at in range(start, end, size):
            piece = buffer[: min(size, end - at)]
            got = stream.readinto(piece.data)
            if got != piece.size:
                raise CheckpointError(
                    "file shrank after its header was read",
                    where=f"{path}, tensor {ref.name!r}",
                    found=f"{got} bytes at byte {ref.offset + at}",
                    expected=f"{piece.size} bytes",
                    fix="let no other process write to the checkpoint, and start again",
                )
            yield piece
