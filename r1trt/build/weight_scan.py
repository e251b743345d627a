"""What an export's weights hold, read before hours of building: usable numbers, and their files' hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from r1trt.checkpoint.content_hash import ContentHash, FileContent
from r1trt.config import SCALE_SUFFIXES
from r1trt.errors import CheckpointError
from r1trt.graph.block_scaled import count_unusable_scales
from r1trt.graph.quantize import Array, stored_rows
from r1trt.progress import Progress, ignore
from r1trt.text import listing

_OR_SCALES = ", or are scales that are not positive"

# Bits that are all ones in NaN and infinity alone: looking at them takes a third of the time of a conversion,
# and pays for the hash.
_NOT_FINITE: Mapping[ir.DataType, tuple[type[np.unsignedinteger[Any]], Any]] = {
    ir.DataType.FLOAT: (np.uint32, np.uint32(0x7F80_0000)),
    ir.DataType.BFLOAT16: (np.uint16, np.uint16(0x7F80)),
    ir.DataType.FLOAT16: (np.uint16, np.uint16(0x7C00)),
    ir.DataType.FLOAT8E4M3FN: (np.uint8, np.uint8(0x7F)),
    ir.DataType.UINT8: (np.uint8, np.uint8(0x7F)),  # the bytes of FP8 experts
}


def read_weights(model: ir.Model, progress: Progress = ignore) -> Mapping[str, FileContent]:
    """Read every weight once, file by file.

    Args:
        model: Exported graph.
        progress: Called with ("checking weights", bytes read, in all).

    Returns:
        The contents of the files by name; not of files that hold no weight of the graph.

    Raises:
        CheckpointError: A file cannot be read; or lists the tensors that hold NaN or infinity, and the block
            scales of FP8 weights that hold 0 or negative numbers.
    """
    files = _weights_by_file(model)
    total = sum(tensor.nbytes for tensors in files.values() for tensor in tensors)
    done, bad, contents = 0, {}, {}
    with ThreadPoolExecutor(max_workers=1) as beside:
        for name, tensors in files.items():
            content = ContentHash(Path(tensors[0].path), beside)
            for tensor in tensors:
                if count := _unusable(tensor, content):
                    bad[str(tensor.name)] = count
                done += tensor.nbytes
                progress("checking weights", done, total)
            contents[name] = content.content()
    _require_usable(bad)
    return contents


def _weights_by_file(model: ir.Model) -> Mapping[str, list[ir.ExternalTensor]]:
    """The weights that lie in files, in the order that they lie in."""
    files: dict[str, list[ir.ExternalTensor]] = {}
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            name = Path(value.const_value.location).as_posix()
            files.setdefault(name, []).append(value.const_value)
    return {name: sorted(files[name], key=lambda tensor: tensor.offset or 0) for name in sorted(files)}


def _require_usable(bad: Mapping[str, int]) -> None:
    if bad:
        scales = any(map(_is_scale, bad))
        raise CheckpointError(
            f"{len(bad)} weights hold NaN or infinity{_OR_SCALES if scales else ''}.",
            found=listing([f"{name}: {count}" for name, count in bad.items()]),
            fix="download the checkpoint again, or take an earlier training step",
        )


def _is_scale(name: str) -> bool:
    return name.endswith(SCALE_SUFFIXES)


def _unusable(tensor: ir.ExternalTensor, content: ContentHash) -> int:
    """How many elements are NaN or infinite, or what no scale is."""
    chunks = _hashed_rows(tensor, content)
    if _is_scale(str(tensor.name)):
        return sum(count_unusable_scales(chunk) for chunk in chunks)
    if (form := _NOT_FINITE.get(tensor.dtype)) is None:
        return sum(int((~np.isfinite(chunk.astype(np.float32))).sum()) for chunk in chunks)
    bits, mask = form
    return sum(int(np.count_nonzero(chunk.view(bits) & mask == mask)) for chunk in chunks)


def _hashed_rows(tensor: ir.ExternalTensor, content: ContentHash) -> Iterator[Array]:
    columns = tensor.shape[-1] if len(tensor.shape) else 1
    assert isinstance(columns, int), "weights have sizes"
    offset = tensor.offset or 0
    for chunk in stored_rows(tensor, columns):
        content.add(offset, chunk.reshape(-1).view(np.uint8).data)
        offset += chunk.nbytes
        yield chunk
