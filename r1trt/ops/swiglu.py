"""R1SwiGLU: silu(gate) * up, element by element."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.edit import Emitter, data_type, dims_of
from r1trt.graph.network_view import LayerParts, ReadBack
from r1trt.ops.cost import CallSize, Cost, Dims, cost_of
from r1trt.ops.layer_function import LayerFunction
from r1trt.ops.layer_precision import WIDE, AllowedTypes, LayerPrecision, Precision


@dataclass(frozen=True, kw_only=True)
class SwigluSpec:
    """One SwiGLU: gate and up of the shape `gate`."""

    gate: Dims


class Swiglu(LayerFunction[SwigluSpec]):
    """R1SwiGLU: Sigmoid and two Mul, which builders fuse with the quantization behind."""

    name = "R1SwiGLU"
    inputs = ("gate", "up")
    outputs = ("y",)
    types = AllowedTypes(input=WIDE)

    def body(self, op: OpBuilder, *values: ir.Value) -> ir.Value:
        """The product with the activated gate."""
        gate, up = values
        y: ir.Value = op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)
        return y

    def spec_from_node(self, node: ir.Node) -> SwigluSpec:
        """Read the shape."""
        return SwigluSpec(gate=self.dims(node, "gate"))

    def default_layer(self, node: ir.Node, activation: Precision, *, fp8: bool) -> LayerPrecision:
        """The activations' type."""
        reason = f"activation functions in {activation}"
        return LayerPrecision(op=self.name, input=activation, output=activation, reason=reason)

    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """Compute in the plan's input type."""
        emit = Emitter(node, str(node.name))
        act, dims = data_type(layer.input), dims_of(node.outputs[0])
        gate = emit.cast(self.required(node, "gate"), act, "CastGate")
        up = emit.cast(self.required(node, "up"), act, "CastUp")
        sigmoid = emit.node("Sigmoid", "Sigmoid", [gate], act, dims)
        silu = emit.node("Mul", "Silu", [gate, sigmoid], act, dims)
        y = emit.node("Mul", "Mul", [silu, up], act, dims)
        emit.finish(node, emit.cast(y, data_type(layer.output), "CastResult"))

    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """Results of the arithmetic."""
        found = parts.outputs("ELEMENTWISE", "ACTIVATION", "UNARY")
        return ReadBack({"arithmetic": layer.input}, {"arithmetic": found})

    def cost(self, spec: SwigluSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        """Two multiplications an element."""
        elements = call.elements(spec.gate)
        return cost_of(
            macs=[(layer.input, 2 * elements)],
            reads=[(layer.input, 2 * elements)],
            writes=[(layer.output, elements)],
        )


SWIGLU = Swiglu()
