"""Write a typed graph: the graph file, and all of its weights in one safetensors file, streamed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import onnx_ir as ir

from r1trt.artifacts.build import BuildDirectory
from r1trt.artifacts.disk import require_free_space
from r1trt.checkpoint.write import HeaderEntry, header_bytes
from r1trt.data_types import OF_ONNX
from r1trt.errors import BuildError
from r1trt.graph.quantize import WeightSource, stored_rows
from r1trt.passes.fp8_as_bytes import bytes_of
from r1trt.progress import Progress, ignore

INLINE_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One tensor of the file; `start` counts bytes from the end of the header."""

    value: ir.Value
    tensor: ir.TensorProtocol
    start: int

    @property
    def stop(self) -> int:
        return self.start + self.tensor.nbytes


def write_typed_model(
    model: ir.Model, directory: Path, *, name: str | None = None, progress: Progress = ignore
) -> Path:
    """Write a graph and the file of its weights into a directory.

    Args:
        model: A typed graph. Afterwards its weights are external tensors of the new file.
        directory: An existing directory; the files in it are self-contained.
        name: Name of the graph file; None means that of a build's typed graph.
        progress: Called with ("weights", bytes written, bytes in all).

    Returns:
        Path of the graph file.

    Raises:
        DiskFullError: The disk is too small for the weights.
        CheckpointError: A weight cannot be read.
    """
    _take_in_small_tensors(model)
    entries = _layout(model)
    total = entries[-1].stop if entries else 0
    require_free_space(directory, total)
    build = BuildDirectory(path=directory)
    with build.weights.open("wb") as file:
        header = _header(entries)
        file.write(header)
        for entry in entries:
            _stream(entry, file, len(header))
            progress("weights", entry.stop, total)
    for entry in entries:
        _point_to_file(entry, build.weights, len(header))
    graph = build.typed_graph if name is None else directory / name
    ir.save(model, graph)
    return graph


def share_weights(written: ir.Model, model: ir.Model) -> None:
    """Point a graph's weights to where those of the same names were written for another graph."""
    for name, value in model.graph.initializers.items():
        tensor = written.graph.initializers[name].const_value if name in written.graph.initializers else None
        if tensor is not None:
            # Of FP8 experts, ONNX Runtime's graph has the bytes.
            value.const_value = tensor if tensor.dtype == value.dtype else bytes_of(tensor)


def weight_bytes(model: ir.Model) -> int:
    """Size of all weights of a graph."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)


def _take_in_small_tensors(model: ir.Model) -> None:
    """Small tensors that lie in the checkpoint move into the graph file, which must not point there."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes < INLINE_BYTES:
            source = WeightSource(name=str(value.name), parts=(tensor,), shape=(1, tensor.size))
            array = np.concatenate(list(source.chunks())).reshape(_dims(tensor))
            value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=value.name)


def _layout(model: ir.Model) -> list[_Entry]:
    """Large initializers, widest types first: without holes, each tensor is then aligned to its element."""
    values = [v for v in model.graph.initializers.values() if v.const_value is not None]
    large = [v for v in values if cast(ir.TensorProtocol, v.const_value).nbytes >= INLINE_BYTES]
    entries: list[_Entry] = []
    start = 0
    for value in sorted(large, key=lambda v: -cast(ir.TensorProtocol, v.const_value).dtype.itemsize):
        tensor = cast(ir.TensorProtocol, value.const_value)
        entries.append(_Entry(value=value, tensor=tensor, start=start))
        start = entries[-1].stop
    return entries


def _dims(tensor: ir.TensorProtocol) -> list[int]:
    return [int(size) for size in tensor.shape if isinstance(size, int)]


def _header(entries: list[_Entry]) -> bytes:
    named = [
        HeaderEntry(
            name=str(entry.value.name),
            dtype=OF_ONNX[entry.tensor.dtype].safetensors,
            shape=tuple(_dims(entry.tensor)),
            length=entry.tensor.nbytes,
        )
        for entry in entries
    ]
    return header_bytes(named, form="r1trt")


def _stream(entry: _Entry, file: BinaryIO, base: int) -> None:
    if isinstance(entry.tensor, ir.ExternalTensor):
        for chunk in stored_rows(entry.tensor, [1, *_dims(entry.tensor)][-1]):
            file.write(np.ascontiguousarray(chunk).view(np.uint8).data)
    elif isinstance(entry.tensor, ir.LazyTensor):
        entry.tensor.tofile(file)
    else:
        file.write(entry.tensor.tobytes())
    if file.tell() != base + entry.stop:
        raise BuildError(
            "A weight was not written whole.",
            where=entry.value.name,
            found=file.tell(),
            expected=base + entry.stop,
        )


def _point_to_file(entry: _Entry, path: Path, base: int) -> None:
    entry.value.const_value = ir.ExternalTensor(
        path.name,
        base + entry.start,
        entry.tensor.nbytes,
        entry.tensor.dtype,
        shape=ir.Shape(_dims(entry.tensor)),
        name=str(entry.value.name),
        base_dir=path.parent,
    )
