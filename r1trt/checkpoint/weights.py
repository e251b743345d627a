"""Reads weights, bounded in memory: one tensor, or all of them in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from r1trt.checkpoint.index import bullet_list
from r1trt.checkpoint.safetensors_header import ITEM_BYTES, TensorRef
from r1trt.checkpoint.strict_json import open_regular
from r1trt.errors import CheckpointError

if TYPE_CHECKING:
    from r1trt.checkpoint.checkpoint import Checkpoint

Progress = Callable[[str, int, int], None]
"""Called with a tensor's name, and bytes done and bytes in all."""

CHUNK_BYTES = 1 << 24

NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}

# NOTES: a number is infinite or NaN when all its exponent's bits are set; E4M3 has no infinity, and one NaN
# pattern, with the mantissa's bits set too. Testing bits needs no conversion, which BF16 would need twice.
_NONFINITE_BITS: Mapping[str, tuple[str, int]] = {
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E4M3": ("u1", 0x7F),
    "F8_E5M2": ("u1", 0x7C),
}


@dataclass(frozen=True, kw_only=True)
class NonFinite:
    """NaN and Inf of one tensor: how many, and the first one's index."""

    name: str
    count: int
    first: tuple[int, ...]


def read_tensor(checkpoint: Checkpoint, name: str) -> NDArray[Any]:
    """Reads one tensor.

    Args:
        checkpoint: The checkpoint.
        name: A tensor of it.

    Returns:
        Its values in their own dtype (ml_dtypes' for BF16 and FP8) and shape; a copy in memory.

    Raises:
        CheckpointError: There is no such tensor, or its file is not what it was when the header was read.
    """
    ref = checkpoint.tensors.get(name)
    if ref is None:
        raise CheckpointError("checkpoint has no such tensor", where=checkpoint.path, found=name)
    data = np.empty(ref.length, dtype=np.uint8)
    position = 0
    for chunk in _chunks(checkpoint.path, ref):
        data[position : position + chunk.size] = chunk
        position += chunk.size
    return data.view(NUMPY_DTYPES[ref.dtype]).reshape(ref.shape)


def _chunks(directory: Path, ref: TensorRef) -> Iterator[NDArray[np.uint8]]:
    """Yields a tensor's bytes in pieces; a piece holds whole elements and is overwritten by the next one."""
    path = directory / ref.file
    buffer = np.empty(min(CHUNK_BYTES, ref.length), dtype=np.uint8)
    with open_regular(path) as stream:
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


def tensors_are_equal(directory: Path, left: TensorRef, right: TensorRef) -> bool:
    """Says whether two tensors have the same dtype, shape and bytes."""
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    pairs = zip(_chunks(directory, left), _chunks(directory, right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def find_nonfinite(checkpoint: Checkpoint, progress: Progress | None = None) -> None:
    """Scans all weights for NaN and Inf, in chunks of 16 MiB.

    Args:
        checkpoint: The checkpoint.
        progress: Called after each tensor.

    Raises:
        CheckpointError: Weights are not finite; lists their tensors, with the count and the first index.
    """
    total = sum(ref.length for ref in checkpoint.tensors.values())
    done, findings = 0, []
    for ref in sorted(checkpoint.tensors.values(), key=lambda ref: (ref.file, ref.offset)):
        finding = _nonfinite_in(checkpoint.path, ref)
        if finding is not None:
            findings.append(f"{finding.name}: {finding.count}, the first at {list(finding.first)}")
        done += ref.length
        if progress is not None:
            progress(ref.name, done, total)
    if findings:
        raise CheckpointError(
            "\n".join(["weights are NaN or infinite", *bullet_list("tensors", findings)]),
            where=checkpoint.path,
            expected="finite weights",
            fix="download the checkpoint again; if the training diverged, take an earlier step",
        )


def _nonfinite_in(directory: Path, ref: TensorRef) -> NonFinite | None:
    view, mask = _NONFINITE_BITS[ref.dtype]
    bits = np.dtype(view).type(mask)
    count, first, base = 0, -1, 0
    for chunk in _chunks(directory, ref):
        words = chunk.view(view)
        bad = (words & bits) == bits
        found = int(np.count_nonzero(bad))
        if found and first < 0:
            first = base + int(bad.argmax())
        count += found
        base += words.size
    if not count:
        return None
    assert base * ITEM_BYTES[ref.dtype] == ref.length
    index = tuple(int(i) for i in np.unravel_index(first, ref.shape))
    return NonFinite(name=ref.name, count=count, first=index)
