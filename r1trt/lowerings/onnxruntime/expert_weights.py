"""One expert's weight out of the stacked ones, in the type that a product takes.

Legend: E experts, P matrices that an expert's weight stacks, N rows of each, K columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.config import SCALE_BLOCK
from r1trt.lowerings.builder import constant
from r1trt.ops.dequantize_blocks import times_block_scales
from r1trt.ops.dynamic_moe import MoeSpec
from r1trt.ops.expert_parts import ExpertPart

INT32 = ir.DataType.INT32
_VALUES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One part's stacked weights of one product, and their block scales where the weights are FP8 with such.

    Attributes:
        first: The layer's expert that stands at 0.
        weights: [E,P*N,K].
        scales: [E,P*ceil(N/128),ceil(K/128)].
    """

    first: int
    weights: ir.Value
    scales: ir.Value


def stack_of(given: Mapping[str, ir.Value], part: ExpertPart, product: str) -> Stack:
    """The stack of a `product`, "gate_up" or "down", among a body's values."""
    return Stack(
        first=part.first,
        weights=given[part.input(f"w_{product}")],
        scales=given[part.input(f"{product}_scale")],
    )


def expert_gate_up(spec: MoeSpec, stack: Stack, op: OpBuilder, expert: ir.Value) -> ir.Value:
    """Rows of gate, then of up [2F,D], of an expert; only this expert's are dequantized."""
    return _expert(op, spec, stack, expert, [2, spec.expert_width, spec.hidden_size])


def expert_down(spec: MoeSpec, stack: Stack, op: OpBuilder, expert: ir.Value) -> ir.Value:
    """The weight of the second product [D,F] of an expert."""
    return _expert(op, spec, stack, expert, [1, spec.hidden_size, spec.expert_width])


def _expert(op: OpBuilder, spec: MoeSpec, stack: Stack, expert: ir.Value, shape: list[int]) -> ir.Value:
    """`shape` is [P,N,K]."""
    index: ir.Value = op.Sub(expert, stack.first) if stack.first else expert
    weight: ir.Value = op.Gather(stack.weights, index, axis=0)
    if not spec.has_block_scales:
        return weight
    parts, rows, columns = shape
    # NOTES: ONNX Runtime joins and indexes no FP8 tensors, so that these are its bytes.
    values = op.Gather(constant(op, _VALUES), op.Cast(weight, to=INT32))
    values = op.Reshape(values, op.Constant(value_ints=shape))
    blocks = op.Gather(stack.scales, index, axis=0)
    blocks = op.Reshape(blocks, op.Constant(value_ints=[parts, -1, -(-columns // SCALE_BLOCK)]))
    scaled = times_block_scales(op, values, blocks)
    y: ir.Value = op.Reshape(scaled, op.Constant(value_ints=[parts * rows, columns]))
    return y
