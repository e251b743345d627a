"""An expert's two products in the types of a plan, FP32 arithmetic with the plan's roundings.

Where `tensorrt_rtx/moe.py` rounds, this does: behind each step in the activation type, and to FP8 in front of
a product. Legend: M tokens, D hidden size, F expert width, K elements of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.config import SCALE_BLOCK
from r1trt.graph.functions import to_float
from r1trt.lowerings.builder import FLOAT, constant
from r1trt.ops.moe_spec import MoeSpec

FP8 = ir.DataType.FLOAT8E4M3FN
LARGEST = 448.0


@dataclass(frozen=True, kw_only=True)
class Products:
    """How a node's experts compute.

    Attributes:
        spec: Types and scales.
        given: The body's values, for the static scales of activations.
    """

    spec: MoeSpec
    given: Mapping[str, ir.Value]

    def seen(self, op: OpBuilder, x: ir.Value, scale: str, columns: int) -> ir.Value:
        """What a product sees of x [M,K]: FP8 values where it is quantized, `scale` naming a static scale."""
        if not self.spec.quantizes_input:
            return x
        if not self.spec.static_scales:
            return _quantized_as_it_comes(op, x, columns)
        codes = op.QuantizeLinear(x, self.given[scale], output_dtype=FP8, precision=FLOAT)
        return self.rounded(op, op.DequantizeLinear(codes, self.given[scale], output_dtype=FLOAT))

    def swiglu(
        self,
        op: OpBuilder,
        seen: ir.Value,
        gate_up: ir.Value,
        down: ir.Value,
        scales: tuple[ir.Value | None, ir.Value | None],
        width: int,
    ) -> ir.Value:
        """Down @ (silu(gate @ x) * (up @ x)) for gate_up [2F,D] (gate rows first), down [D,F]."""
        weights = [op.Transpose(op.CastLike(weight, seen), perm=[1, 0]) for weight in (gate_up, down)]
        product = self._scaled(op, self.rounded(op, op.MatMul(seen, weights[0])), scales[0])
        gate, up = op.Split(product, num_outputs=2, axis=-1, _outputs=2)
        silu = self.rounded(op, op.Mul(gate, self.rounded(op, op.Sigmoid(gate))))
        mid = self.rounded(op, op.Mul(silu, up))
        y = self.rounded(op, op.MatMul(self.seen(op, mid, "mid_scale", width), weights[1]))
        if scales[1] is not None:
            y = op.Mul(y, scales[1])
        return y

    def rounded(self, op: OpBuilder, value: ir.Value) -> ir.Value:
        """FP32 values that the activation type holds."""
        if self.spec.activation == FLOAT:
            return value
        return to_float(op, op.Cast(value, to=self.spec.activation))

    def _scaled(self, op: OpBuilder, product: ir.Value, scale: ir.Value | None) -> ir.Value:
        return product if scale is None else self.rounded(op, op.Mul(product, scale))


def _quantized_as_it_comes(op: OpBuilder, x: ir.Value, columns: int) -> ir.Value:
    """X [M,K] with a scale for 128 neighbours of a row, which maps the largest of them to 448."""
    blocks = -(-columns // SCALE_BLOCK)
    missing = blocks * SCALE_BLOCK - columns
    whole = op.Pad(x, op.Constant(value_ints=[0, 0, 0, missing])) if missing else x
    grouped = op.Reshape(whole, op.Constant(value_ints=[-1, blocks, SCALE_BLOCK]))
    largest = op.ReduceMax(op.Abs(grouped), [2], keepdims=1)
    one = constant(op, np.array(1.0, np.float32))
    scale = op.Where(op.Greater(largest, 0.0), op.Div(largest, LARGEST), one)
    codes = op.Cast(op.Clip(op.Div(grouped, scale), -LARGEST, LARGEST), to=FP8)
    back = op.Reshape(op.Mul(to_float(op, codes), scale), op.Constant(value_ints=[-1, blocks * SCALE_BLOCK]))
    y: ir.Value = op.Slice(back, [0], [columns], [1]) if missing else back
    return y
