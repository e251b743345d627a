"""The residual sum: an ONNX Add of the main graph, a layer of a plan by its type."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from r1trt.graph.edit import Emitter, data_type, retype_outputs
from r1trt.graph.network_view import LayerParts, ReadBack
from r1trt.ops.cost import CallSize, Cost, Dims, cost_of
from r1trt.ops.layer_precision import WIDE, AllowedTypes, LayerPrecision, Precision
from r1trt.ops.operator import Operator


@dataclass(frozen=True, kw_only=True)
class SumSpec:
    """One sum of two values of the shape `x`."""

    x: Dims


class ResidualAdd(Operator[SumSpec]):
    """Add: the sum is made in the wider of the plan's two types."""

    name = "Add"
    domain = ""
    inputs = ("x", "y")
    outputs = ("sum",)
    types = AllowedTypes(input=WIDE)

    def spec_from_node(self, node: ir.Node) -> SumSpec:
        """Read the shape."""
        return SumSpec(x=self.dims(node, "x"))

    def default_layer(self, node: ir.Node, activation: Precision, *, fp8: bool) -> LayerPrecision:
        """The activations' type."""
        reason = f"residual stream in {activation}"
        return LayerPrecision(op=self.name, input=activation, output=activation, reason=reason)

    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """Cast both terms and the sum; a residual stream in FP32 has to be added in FP32."""
        key = str(node.name)
        emit, arithmetic = Emitter(node, key), data_type(_arithmetic(layer))
        for index, name in enumerate(self.inputs):
            self.cast_input(emit, node, name, data_type(layer.input))
            term = emit.cast(self.required(node, name), arithmetic, f"CastTerm_{index}")
            self.set_input(node, name, term)
        retype_outputs(node, key, arithmetic, data_type(layer.output))

    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """Result of the sum."""
        return ReadBack({"arithmetic": _arithmetic(layer)}, {"arithmetic": parts.outputs("ELEMENTWISE")})

    def cost(self, spec: SumSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        """One addition an element."""
        elements = call.elements(spec.x)
        return cost_of(
            macs=[(_arithmetic(layer), elements)],
            reads=[(layer.input, 2 * elements)],
            writes=[(layer.output, elements)],
        )


def _arithmetic(layer: LayerPrecision) -> Precision:
    return "fp32" if "fp32" in (layer.input, layer.output) else layer.output


RESIDUAL_ADD = ResidualAdd()
