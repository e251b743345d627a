"""One expert's weight out of the stacked ones, in the type that a product takes.

Legend: E experts, P matrices that an expert's weight stacks, N rows of each, K columns.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.config import SCALE_BLOCK
from r1trt.lowerings.builder import constant
from r1trt.ops.dequantize_blocks import times_block_scales
from r1trt.ops.dynamic_moe import MoeSpec

INT32 = ir.DataType.INT32
_VALUES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)


def expert_gate_up(
    op: OpBuilder, spec: MoeSpec, weights: ir.Value, scales: ir.Value, expert: ir.Value
) -> ir.Value:
    """Rows of gate, then of up [2F,D]; only this expert's are dequantized."""
    return _expert(op, spec, weights, scales, expert, [2, spec.expert_width, spec.hidden_size])


def expert_down(
    op: OpBuilder, spec: MoeSpec, weights: ir.Value, scales: ir.Value, expert: ir.Value
) -> ir.Value:
    """The weight of the second product [D,F]."""
    return _expert(op, spec, weights, scales, expert, [1, spec.hidden_size, spec.expert_width])


def _expert(
    op: OpBuilder, spec: MoeSpec, weights: ir.Value, scales: ir.Value, expert: ir.Value, shape: list[int]
) -> ir.Value:
    """`shape` is [P,N,K]; weights [E,P*N,K], and block scales [E,P*ceil(N/128),ceil(K/128)]."""
    weight: ir.Value = op.Gather(weights, expert, axis=0)
    if not spec.has_block_scales:
        return weight
    parts, rows, columns = shape
    # NOTES: ONNX Runtime joins and indexes no FP8 tensors, so that these are its bytes.
    values = op.Gather(constant(op, _VALUES), op.Cast(weight, to=INT32))
    values = op.Reshape(values, op.Constant(value_ints=shape))
    blocks = op.Gather(scales, expert, axis=0)
    blocks = op.Reshape(blocks, op.Constant(value_ints=[parts, -1, -(-columns // SCALE_BLOCK)]))
    scaled = times_block_scales(op, values, blocks)
    y: ir.Value = op.Reshape(scaled, op.Constant(value_ints=[parts * rows, columns]))
    return y
