"""One expert's weight out of the stacked ones, in the type that a product takes; no other is converted.

Legend: E experts of a part, P matrices that an expert's weight stacks (gate and up: 2), N rows of each, K
columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.config import scale_shape
from r1trt.lowerings.builder import constant
from r1trt.ops.dequantize_blocks import times_block_scales
from r1trt.ops.expert_parts import ExpertPart
from r1trt.ops.moe_spec import MoeSpec

INT32, UINT8 = ir.DataType.INT32, ir.DataType.UINT8
_VALUES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Matrices:
    """What an expert's weight of one product is: P matrices [N,K], one below the other."""

    count: int
    rows: int
    columns: int

    @property
    def blocks(self) -> tuple[int, int, int]:
        """Shape of their block scales: P, ceil(N/128), ceil(K/128)."""
        rows, columns = scale_shape((self.rows, self.columns))
        return self.count, rows, columns

    @property
    def block_count(self) -> int:
        """How many blocks they have."""
        return int(np.prod(self.blocks))


def gate_up(width: int, hidden: int) -> Matrices:
    """Rows of gate, then of up."""
    return Matrices(count=2, rows=width, columns=hidden)


def down(width: int, hidden: int) -> Matrices:
    """The second product's."""
    return Matrices(count=1, rows=hidden, columns=width)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One part's stacked weights of one product.

    Attributes:
        first: The layer's expert that stands at 0.
        matrices: Of one expert.
        weights: [E,P*N,K].
        scales: [E], or [E,P*ceil(N/128),ceil(K/128)]; not read where weights have none.
    """

    first: int
    matrices: Matrices
    weights: ir.Value
    scales: ir.Value


def stack_of(
    op: OpBuilder, spec: MoeSpec, given: Mapping[str, ir.Value], part: ExpertPart, product: str
) -> Stack:
    """The stack of a `product`, "gate_up" or "down", among a body's values."""
    matrices = _matrices(product)(spec.expert_width, spec.hidden_size)
    scales = given[part.input(f"{product}_scale")]
    if spec.scales == "block" and spec.scales_hold_shared and part.index == 0:
        scales = op.Slice(scales, [0], [part.count * matrices.block_count], [0])
        count, rows, columns = matrices.blocks
        scales = op.Reshape(scales, op.Constant(value_ints=[part.count, count * rows, columns]))
    weights = given[part.input(f"w_{product}")]
    return Stack(first=part.first, matrices=matrices, weights=weights, scales=scales)


def expert_weight(spec: MoeSpec, stack: Stack, op: OpBuilder, expert: ir.Value) -> ir.Value:
    """The weight [P*N,K] of one of the layer's experts; one scale for all of it is left to the product."""
    index = _in_part(op, stack, expert)
    weight: ir.Value = op.Gather(stack.weights, index, axis=0)
    scales = op.Gather(stack.scales, index, axis=0) if spec.scales == "block" else None
    return _floats(op, spec, stack.matrices, weight, scales)


def expert_scale(spec: MoeSpec, stack: Stack, op: OpBuilder, expert: ir.Value) -> ir.Value | None:
    """The scale of the product with an expert's weight, where the expert has one."""
    if spec.scales != "expert":
        return None
    scale: ir.Value = op.Gather(stack.scales, _in_part(op, stack, expert), axis=0)
    return scale


def shared_weight(op: OpBuilder, spec: MoeSpec, given: Mapping[str, ir.Value], product: str) -> ir.Value:
    """The shared expert's weight [P*N,K]."""
    weight = given[f"shared_{product}"]
    if not spec.scales_hold_shared:
        return weight
    scales = _shared_scales(op, spec, given, product) if spec.scales == "block" else None
    return _floats(op, spec, _matrices(product)(spec.shared_width, spec.hidden_size), weight, scales)


def shared_scale(
    op: OpBuilder, spec: MoeSpec, given: Mapping[str, ir.Value], product: str
) -> ir.Value | None:
    """The scale of the product with the shared expert's weight, where it has one."""
    if spec.scales_hold_shared and spec.scales == "expert":
        return _shared_scales(op, spec, given, product)
    return None


def _shared_scales(op: OpBuilder, spec: MoeSpec, given: Mapping[str, ir.Value], product: str) -> ir.Value:
    """What stands behind the scales of the experts of part 0."""
    experts, make = spec.parts[0].count, _matrices(product)
    each, own = 1, 1
    if spec.scales == "block":
        each = make(spec.expert_width, spec.hidden_size).block_count
        own = make(spec.shared_width, spec.hidden_size).block_count
    scales: ir.Value = op.Slice(given[f"{product}_scale"], [experts * each], [experts * each + own], [0])
    return scales


def _matrices(product: str) -> Callable[[int, int], Matrices]:
    return gate_up if product == "gate_up" else down


def _in_part(op: OpBuilder, stack: Stack, expert: ir.Value) -> ir.Value:
    index: ir.Value = op.Sub(expert, stack.first) if stack.first else expert
    return index


def _floats(
    op: OpBuilder, spec: MoeSpec, matrices: Matrices, weight: ir.Value, scales: ir.Value | None
) -> ir.Value:
    """Bytes of FP8 elements as FP32, times the scales of their blocks; what is no FP8 as it is."""
    if spec.weights != UINT8:
        return weight
    # NOTES: ONNX Runtime joins and indexes no FP8 tensors, so that these are its bytes.
    values: ir.Value = op.Gather(constant(op, _VALUES), op.Cast(weight, to=INT32))
    if scales is None:
        return values
    count, rows, columns = matrices.count, matrices.rows, matrices.columns
    values = op.Reshape(values, op.Constant(value_ints=[count, rows, columns]))
    blocks = op.Reshape(scales, op.Constant(value_ints=[count, -1, matrices.blocks[-1]]))
    scaled = times_block_scales(op, values, blocks)
    y: ir.Value = op.Reshape(scaled, op.Constant(value_ints=[count * rows, columns]))
    return y
