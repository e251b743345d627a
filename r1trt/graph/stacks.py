"""Expert stacks as a list of the checkpoint's tensors: written down by a build, read when it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir

from r1trt.artifacts.experts import ExpertStack, ExternalExperts, ShardTensor, StackPart
from r1trt.checkpoint.safetensors_header import TensorRef, read_safetensors_header
from r1trt.data_types import DATA_TYPES, OF_ONNX, OF_SAFETENSORS
from r1trt.errors import PlanError
from r1trt.graph.alternating import AlternatingTensor
from r1trt.graph.block_scaled import BlockScaledTensor, JoinedScales
from r1trt.graph.interface import ONLY_LAST
from r1trt.graph.quantize import Array, RowTensor, WeightSource, WeightTensor

Stacks = Mapping[str, ir.TensorProtocol]
Headers = Mapping[str, Mapping[str, TensorRef]]


def detach_stacks(model: ir.Model) -> Stacks:
    """Take the defaults of a graph's expert stacks away, so that they are inputs and nothing else.

    Returns:
        What they were, unread, in the order of the inputs.
    """
    found: dict[str, ir.TensorProtocol] = {}
    for value in model.graph.inputs:
        if value.const_value is not None and value.name != ONLY_LAST:
            found[str(value.name)] = value.const_value
            del model.graph.initializers[str(value.name)]
            value.const_value = None
    return found


def external_experts(stacks: Stacks, base: Path) -> ExternalExperts | None:
    """Which tensors of the checkpoint's shards stacks are made of; None where there are no stacks.

    Args:
        stacks: The stacks, unread.
        base: Directory of the shards.

    Raises:
        PlanError: One is made of something else.
        CheckpointError: A shard's header cannot be read.
    """
    if not stacks:
        return None
    places = _Places(base)
    listed = tuple(_listed(name, tensor, places) for name, tensor in stacks.items())
    return ExternalExperts(base_directory=str(base.resolve()), stacks=listed)


def stack_rows(stack: ExpertStack, base: Path, headers: Headers) -> Iterator[Array]:
    """The elements of a stack in order, some at a time, in its type, read from the shards.

    Args:
        stack: Which tensors it is made of.
        base: Directory of the shards.
        headers: The tensors of its shards, by file and name; they fit what is listed.

    Raises:
        CheckpointError: A shard cannot be read, or a block scale is no positive number.
    """
    tensor = _tensor_of_stack(stack, base, headers)
    if isinstance(tensor, WeightTensor):
        yield from tensor.chunks()
    elif isinstance(tensor, RowTensor):
        yield from tensor.rows()
    else:
        yield tensor.numpy()


class _Places:
    """The tensors of shards by where they begin; a shard's header is read once."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._by_file: dict[str, list[TensorRef]] = {}
        self._at: dict[str, Any] = {}

    def of(self, tensor: ir.ExternalTensor) -> ShardTensor:
        """The part of a shard's tensor that an external tensor is."""
        file, offset = Path(tensor.location).as_posix(), tensor.offset or 0
        if file not in self._by_file:
            self._by_file[file] = list(read_safetensors_header(self._base, file).tensors)
            self._at[file] = np.array([ref.offset for ref in self._by_file[file]])
        index = int(np.searchsorted(self._at[file], offset, side="right")) - 1
        ref = self._by_file[file][index]
        size = OF_SAFETENSORS[ref.dtype].bytes
        return ShardTensor(
            file=file,
            tensor=ref.name,
            dtype=ref.dtype,
            shape=ref.shape,
            first=(offset - ref.offset) // size,
            count=tensor.nbytes // size,
        )


def _listed(name: str, tensor: ir.TensorProtocol, places: _Places) -> ExpertStack:
    shape = tuple(int(size) for size in tensor.shape if isinstance(size, int))
    if isinstance(tensor, AlternatingTensor):
        return replace(_listed(name, tensor.stack, places), layout="alternating")
    if isinstance(tensor, JoinedScales):
        parts = tuple(_part(name, part, places) for part in tensor.parts)
        return ExpertStack(name=name, data_type="fp32", shape=shape, parts=parts, layout="scales")
    source: Sequence[ir.TensorProtocol]
    if isinstance(tensor, ir.ExternalTensor):
        source, element_type, scale = [tensor], tensor.dtype, None
    elif isinstance(tensor, WeightTensor) and not tensor.is_transposed:
        source, element_type, scale = tensor.source.parts, tensor.element_type, tensor.scales
    else:
        _refuse(name, tensor)
    return ExpertStack(
        name=name,
        data_type=OF_ONNX[element_type].name,  # type: ignore[arg-type]  # experts have no others
        shape=shape,
        parts=tuple(_part(name, part, places) for part in source),
        scale=scale,
    )


def _part(name: str, tensor: ir.TensorProtocol, places: _Places) -> StackPart:
    if isinstance(tensor, BlockScaledTensor):
        codes, scales = tensor.codes, tensor.scales
        if isinstance(codes, ir.ExternalTensor) and isinstance(scales, ir.ExternalTensor):
            return StackPart(
                values=places.of(codes),
                block_scales=places.of(scales),
                columns=tensor.columns,
                first_row=tensor.first_row,
            )
    if not isinstance(tensor, ir.ExternalTensor):
        _refuse(name, tensor)
    return StackPart(values=places.of(tensor))


def _refuse(name: str, tensor: ir.TensorProtocol) -> NoReturn:
    raise PlanError(
        "An expert stack that is to be an input is not made of the checkpoint's tensors alone.",
        where=name,
        found=type(tensor).__name__,
        expected="weights as the checkpoint stores them, or rounded to nearest while they are loaded",
        fix="build with --no-external-experts, or with --no-compensate",
    )


def _tensor_of_stack(stack: ExpertStack, base: Path, headers: Headers) -> ir.TensorProtocol:
    parts = [_tensor_of_part(part, base, headers) for part in stack.parts]
    if stack.layout == "scales":
        return JoinedScales(parts, stack.shape, name=stack.name)
    dtype = ir.DataType(DATA_TYPES[stack.data_type].onnx)
    source = WeightSource(name=stack.name, parts=tuple(parts), shape=stack.shape)
    weight = WeightTensor(source, dtype, name=stack.name, scale=_scale(stack))
    return AlternatingTensor(weight, name=stack.name) if stack.layout == "alternating" else weight


def _scale(stack: ExpertStack) -> float | Sequence[float] | None:
    return stack.scale[0] if stack.scale is not None and len(stack.scale) == 1 else stack.scale


def _tensor_of_part(part: StackPart, base: Path, headers: Headers) -> ir.TensorProtocol:
    values = _of_shard(part.values, base, headers)
    if part.block_scales is None:
        return values
    scales = _of_shard(part.block_scales, base, headers)
    return BlockScaledTensor(values, scales, columns=part.columns, first_row=part.first_row)


def _of_shard(listed: ShardTensor, base: Path, headers: Headers) -> ir.ExternalTensor:
    ref = headers[listed.file][listed.tensor]
    stored = OF_SAFETENSORS[ref.dtype]
    whole = listed.count * stored.bytes == ref.length
    return ir.ExternalTensor(
        listed.file,
        ref.offset + listed.first * stored.bytes,
        listed.count * stored.bytes,
        ir.DataType(stored.onnx),
        shape=ir.Shape(ref.shape if whole else [listed.count]),
        name=listed.tensor,
        base_dir=base,
    )
