"""Weights of realized layers: followed back to the checkpoint, registered in the type the plan asks for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.data_types import OF_ONNX
from r1trt.errors import PlanError
from r1trt.graph.block_codes import BITS, FLOAT_INPUT, INT8_INPUT, MATMUL_NBITS, block_tensors
from r1trt.graph.block_scaled import BlockScaledTensor
from r1trt.graph.domain import DEQUANTIZE_BLOCKS
from r1trt.graph.edit import Emitter, dims_of, register, static_dims
from r1trt.graph.quantize import WeightSource, WeightTensor
from r1trt.graph.weight_grid import Grid

Scale = float | tuple[float, ...]
FP8 = ir.DataType.FLOAT8E4M3FN


def weight_source_from_value(value: ir.Value, scales: ir.Value | None = None) -> WeightSource:
    """The checkpoint tensors behind a weight: an initializer, or a view, Cast or row-wise Concat of some.

    FP8 weights with block scales are seen as FLOAT.

    Args:
        value: The weight.
        scales: Its block scales, where no R1DequantizeBlocks applies them: those of every part of it, joined
            in the same order.

    Raises:
        PlanError: Something else stands in front of the weight.
    """
    parts = _parts(value)
    if scales is not None:
        parts = [_scaled(*pair) for pair in zip(parts, _parts(scales), strict=True)]
    return WeightSource(name=_weight_name(value), parts=tuple(parts), shape=static_dims(value))


def is_block_fp8(value: ir.Value) -> bool:
    """Whether a weight comes, by views and joins, from FP8 with block scales."""
    node = value.producer()
    if value.dtype == ir.DataType.UINT8:
        return True
    if node is None or node.op_type == DEQUANTIZE_BLOCKS:
        return node is not None
    if node.op_type not in ("Cast", "Reshape", "Concat", "Slice"):
        return False
    return any(is_block_fp8(item) for item in node.inputs if item is not None)


def own_fp8_weight(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A weight in the checkpoint's FP8 elements, without its block scales, as an initializer; made once.

    Raises:
        PlanError: The checkpoint does not hold it in FP8 with block scales.
    """
    parts = tuple(map(_as_fp8, _parts(value)))
    name = _weight_name(value)
    source = WeightSource(name=name, parts=parts, shape=static_dims(value))
    return register(graph, WeightTensor(source, FP8, name=f"{name}.{OF_ONNX[FP8].name}"))


def block_scales_of(value: ir.Value) -> list[ir.TensorProtocol]:
    """The block scales of a weight that R1DequantizeBlocks nodes dequantize, in the order of its rows.

    Raises:
        PlanError: There is no such node.
    """
    return [part.scales for part in _parts(value) if isinstance(part, BlockScaledTensor)]


def scale_tensors(value: ir.Value) -> list[ir.TensorProtocol]:
    """The checkpoint's tensors behind stacked block scales, in the order of the stack."""
    return _parts(value)


def _as_fp8(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same bytes as FP8 elements; a tensor in a file is not read."""
    if isinstance(tensor, BlockScaledTensor):
        tensor = tensor.codes
    if tensor.dtype == FP8:
        return tensor
    if isinstance(tensor, ir.ExternalTensor):
        return ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            FP8,
            shape=tensor.shape,
            name=str(tensor.name),
            base_dir=tensor.base_dir,
        )
    return ir.Tensor(tensor.numpy().view(FP8.numpy()), dtype=FP8, name=tensor.name)


def is_own_fp8(value: ir.Value) -> bool:
    """Whether a weight is, by views and joins alone, FP8 with block scales in the checkpoint."""
    try:
        parts = _parts(value)
    except PlanError:
        return False
    return all(isinstance(part, BlockScaledTensor) or part.dtype == ir.DataType.UINT8 for part in parts)


def _scaled(codes: ir.TensorProtocol, scales: ir.TensorProtocol) -> ir.TensorProtocol:
    columns = codes.shape[-1]
    assert isinstance(columns, int), "weights have sizes"
    return BlockScaledTensor(codes, scales, columns=columns)


def _parts(value: ir.Value) -> list[ir.TensorProtocol]:
    if value.const_value is not None:
        return [value.const_value]
    node = value.producer()
    if node is not None and node.op_type in ("Cast", "Reshape") and node.inputs[0] is not None:
        return _parts(node.inputs[0])
    if node is not None and node.op_type == "Concat" and node.attributes["axis"].as_int() == 0:
        return [part for item in node.inputs if item is not None for part in _parts(item)]
    if node is not None and node.op_type == "Slice":
        return _sliced(node)
    if node is not None and node.op_type == DEQUANTIZE_BLOCKS:
        codes, scales = (_parts(item)[0] for item in node.inputs if item is not None)
        return [_scaled(codes, scales)]
    raise PlanError(
        "A weight is not a tensor of the checkpoint.",
        where=value.name,
        found="an input of the graph" if node is None else f"the result of {node.op_type} '{node.name}'",
        expected="an initializer, or a Cast, Reshape, Slice or Concat along axis 0 of initializers",
    )


def _sliced(node: ir.Node) -> list[ir.TensorProtocol]:
    """The runs of neighbouring elements that a Slice along one axis takes out of one tensor."""
    value, *numbers = node.inputs
    assert value is not None, "a Slice has an input"
    start, stop, axis = (int(_numbers(number)[0]) for number in numbers[:3])
    dims, (whole,) = static_dims(value), _parts(value)
    inner = math.prod(dims[axis + 1 :])
    firsts = [index * dims[axis] + start for index in range(math.prod(dims[:axis]))]
    return [_run(whole, first * inner, (stop - start) * inner) for first in firsts]


def _numbers(value: ir.Value | None) -> NDArray[Any]:
    assert value is not None and value.const_value is not None, "exports cut at constants"
    return value.const_value.numpy()


def _run(tensor: ir.TensorProtocol, first: int, count: int) -> ir.TensorProtocol:
    """`count` elements of a tensor from the element `first` on; a tensor in a file is not read."""
    if isinstance(tensor, BlockScaledTensor):
        assert first % tensor.columns == count % tensor.columns == 0, "weights are cut between rows"
        codes, row = _run(tensor.codes, first, count), tensor.first_row + first // tensor.columns
        return BlockScaledTensor(codes, tensor.scales, columns=tensor.columns, first_row=row)
    if not isinstance(tensor, ir.ExternalTensor):
        return ir.Tensor(tensor.numpy().reshape(-1)[first : first + count], dtype=tensor.dtype)
    size = tensor.dtype.itemsize
    return ir.ExternalTensor(
        tensor.location,
        (tensor.offset or 0) + int(first * size),
        int(count * size),
        tensor.dtype,
        shape=ir.Shape([count]),
        name=str(tensor.name),
        base_dir=tensor.base_dir,
    )


def _weight_name(value: ir.Value) -> str:
    node = value.producer()
    if node is None:
        return str(value.name)
    if node.op_type in ("Cast", DEQUANTIZE_BLOCKS) and node.inputs[0] is not None:
        return _weight_name(node.inputs[0])
    return str(node.name).removesuffix(".stack").removesuffix(".concat") + ".weight"


def typed_weight(
    graph: ir.Graph,
    value: ir.Value,
    dtype: ir.DataType,
    scale: Scale | None = None,
    block_scales: ir.Value | None = None,
) -> ir.Value:
    """The weight as an initializer of the type `dtype`, made once; FP8 takes a scale, or one for each row.

    `block_scales` are those that the checkpoint's own FP8 has, as in `weight_source_from_value`.
    An initializer that has the type already stays what it is.
    """
    if value.const_value is not None and value.dtype == dtype and scale is None:
        return value
    source = weight_source_from_value(value, block_scales)
    computed = any(isinstance(part, BlockScaledTensor) for part in source.parts)
    changed = computed or source.dtype != dtype or scale is not None
    name = typed_weight_name(source, dtype) if changed else source.name
    return register(graph, WeightTensor(source, dtype, name=name, scale=scale))


def typed_weight_name(source: WeightSource, dtype: ir.DataType) -> str:
    """Name of a weight in a typed graph, where its type is not the checkpoint's."""
    return f"{source.name}.{OF_ONNX[dtype].name}"


def matmul_weight(
    emit: Emitter, value: ir.Value, dtype: ir.DataType, act: ir.DataType, scale: Scale | None
) -> ir.Value:
    """A linear's weight [N,K] as the right side of a MatMul: [K,N] in the type `act`.

    FP8 weights are dequantized first; the Transpose behind that is what builders fold into the product.
    """
    rows, columns = static_dims(value)
    weight = typed_weight(emit.graph, value, dtype, scale)
    if scale is not None:
        weight = dequantized(emit, weight, np.asarray(scale, np.float32), act, "Weight")
    return emit.node("Transpose", "TransposeWeight", [weight], act, (columns, rows), {"perm": [1, 0]})


def block_weight(
    graph: ir.Graph,
    value: ir.Value,
    grid: Grid,
    block_scales: ir.Value | None = None,
    *,
    alternates: bool = False,
) -> tuple[ir.Value, ir.Value]:
    """Codes and scales of a weight in INT8 or INT4 blocks, as initializers, made once.

    `block_scales` are those of the checkpoint's own FP8, as in `weight_source_from_value`; layouts, and
    `alternates`, as in `r1trt.graph.block_codes.block_tensors`.
    """
    source = weight_source_from_value(value, block_scales)
    codes, scales = block_tensors(source, grid, source.name, alternates=alternates)
    return register(graph, codes), register(graph, scales)


def block_product(
    emit: Emitter, x: ir.Value, weight: ir.Value, grid: Grid, bias: ir.Value | None, rounds_input: bool
) -> ir.Value:
    """The product of x [...,K] with a weight [N,K] in blocks, plus a bias [N]: com.microsoft.MatMulNBits.

    `rounds_input`: activations become INT8 as they come, in the same blocks (accuracy_level 4).
    """
    rows, columns = static_dims(weight)
    inputs = [x, *block_weight(emit.graph, weight, grid), None, None, bias]
    attributes = {
        "K": columns,
        "N": rows,
        "bits": BITS[grid.code],
        "block_size": grid.block_size,
        "accuracy_level": INT8_INPUT if rounds_input else FLOAT_INPUT,
    }
    inputs = inputs if bias is not None else inputs[:3]
    return emit.contrib_node(MATMUL_NBITS, "MatMul", inputs, [(*dims_of(x)[:-1], rows)], attributes)[0]


def dequantized(
    emit: Emitter,
    weight: ir.Value,
    scale: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    act: ir.DataType,
    what: str,
) -> ir.Value:
    """DequantizeLinear of FP8 values to `act`; the FP32 scale neither rounds nor decides the type."""
    inputs = [weight, emit.constant(f"{what.lower()}_scale", scale)]
    attributes = {"output_dtype": int(act)} | ({"axis": 0} if scale.ndim else {})
    return emit.node("DequantizeLinear", f"Dequantize{what}", inputs, act, static_dims(weight), attributes)
