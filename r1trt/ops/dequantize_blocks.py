"""R1DequantizeBlocks: an FP8 weight with block scales as FLOAT, in front of the layer that reads it.

It is no layer of a plan: typing reads the checkpoint's FP8 elements and scales themselves. Legend: w [N,K]
FP8, scales [ceil(N/128),ceil(K/128)].
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.config import SCALE_BLOCK
from r1trt.graph.domain import DEQUANTIZE_BLOCKS
from r1trt.graph.functions import function_from_body, to_float
from r1trt.ops.signature import Signature


class DequantizeBlocks(Signature):
    """Each element times the scale of its block; exact but for the rounding of that product."""

    name = DEQUANTIZE_BLOCKS
    inputs: ClassVar[tuple[str, ...]] = ("w", "scales")
    outputs = ("y",)

    def function(self) -> ir.Function:
        """The body as a model-local function."""
        return function_from_body(self.name, self.inputs, self._body)

    def _body(self, op: OpBuilder, w: ir.Value, scales: ir.Value) -> ir.Value:
        return times_block_scales(op, to_float(op, w), scales)


def times_block_scales(op: OpBuilder, values: ir.Value, scales: ir.Value) -> ir.Value:
    """Values [...,N,K] times scales [...,ceil(N/128),ceil(K/128)]."""
    for axis in (-2, -1):
        size = op.Squeeze(op.Shape(values, start=-2, end=-1) if axis == -2 else op.Shape(values, start=-1))
        scales = op.Gather(scales, op.Div(op.Range(0, size, 1), SCALE_BLOCK), axis=axis)
    y: ir.Value = op.Mul(values, scales)
    return y


BLOCKS = DequantizeBlocks()
