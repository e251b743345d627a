"""R1RMSNorm: root mean square normalization along the last axis, in FP32 whatever stands around it."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.edit import FLOAT, Emitter, data_type, dims_of
from r1trt.graph.functions import to_float
from r1trt.graph.network_view import LayerParts, ReadBack, joined, type_name
from r1trt.graph.weights import typed_weight
from r1trt.ops.cost import CallSize, Cost, Dims, cost_of
from r1trt.ops.layer_function import LayerFunction
from r1trt.ops.layer_precision import WIDE, AllowedTypes, LayerPrecision, Precision


@dataclass(frozen=True, kw_only=True)
class NormSpec:
    """One norm of x of the shape `x`; gamma has the size of the last axis."""

    x: Dims
    width: int
    epsilon: float


class RmsNorm(LayerFunction[NormSpec]):
    """R1RMSNorm: Cast, RMSNormalization in FP32, Cast: one fused kernel in TensorRT, gamma in FP32."""

    name = "R1RMSNorm"
    inputs = ("x", "w")
    outputs = ("y",)
    attributes = MappingProxyType({"epsilon": 1e-6})
    types = AllowedTypes(input=WIDE, weight=("fp32",))

    def body(self, op: OpBuilder, *values: ir.Value) -> ir.Value:
        """RMSNormalization with the node's epsilon."""
        x, w = values
        epsilon = ir.RefAttr("epsilon", "epsilon", ir.AttributeType.FLOAT)
        y: ir.Value = op.RMSNormalization(x, to_float(op, w), axis=-1, epsilon=epsilon)
        return y

    def spec_from_node(self, node: ir.Node) -> NormSpec:
        """Read a norm's sizes and epsilon."""
        (width,) = self.sizes(node, "w", 0)
        return NormSpec(x=self.dims(node, "x"), width=width, epsilon=float(self.attribute(node, "epsilon")))

    def default_layer(self, node: ir.Node, activation: Precision, *, fp8: bool) -> LayerPrecision:
        """Activations as they come."""
        return LayerPrecision(
            op=self.name,
            input=activation,
            weight="fp32",
            output=activation,
            reason="normalization is computed in FP32",
        )

    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """Read and write the plan's types, compute in FP32."""
        emit = Emitter(node, str(node.name))
        x = emit.cast(self.required(node, "x"), data_type(layer.input), "CastInput")
        x = emit.cast(x, FLOAT, "CastToFloat")
        gamma = typed_weight(emit.graph, self.required(node, "w"), FLOAT)
        attributes = {"axis": -1, "epsilon": self.attribute(node, "epsilon")}
        y = emit.node("RMSNormalization", "RMSNormalization", [x, gamma], FLOAT, dims_of(x), attributes)
        emit.finish(node, emit.cast(y, data_type(layer.output), "CastFromFloat"))

    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """Everything between the casts is FP32."""
        inner = parts.of_type("ELEMENTWISE", "REDUCE", "UNARY", "NORMALIZATION")
        types = [type_name(dtype) for part in inner for _, dtype in (*part["inputs"], *part["outputs"])]
        return ReadBack({"arithmetic": "fp32"}, {"arithmetic": joined(types)})

    def cost(self, spec: NormSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        """A square that is added up, a factor and gamma an element."""
        elements = call.elements(spec.x)
        return cost_of(
            macs=[("fp32", 3 * elements)],
            reads=[(layer.input, elements), (layer.weight, spec.width)],
            writes=[(layer.output, elements)],
        )


RMS_NORM = RmsNorm()
