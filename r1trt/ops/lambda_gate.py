"""R1LambdaGate: lam = sigmoid(x @ w.T + b), all of it FP32, since lam decides which attention branch runs."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.edit import FLOAT, Emitter, data_type, dims_of
from r1trt.graph.functions import to_float
from r1trt.graph.network_view import LayerParts, ReadBack, joined
from r1trt.graph.weights import matmul_weight, typed_weight
from r1trt.ops.cost import CallSize, Cost, cost_of
from r1trt.ops.layer_function import LayerFunction
from r1trt.ops.layer_precision import WIDE, AllowedTypes, LayerPrecision, Precision
from r1trt.ops.linear import LinearSpec


class LambdaGate(LayerFunction[LinearSpec]):
    """R1LambdaGate: an FP32 product of the un-quantized norm, and a Sigmoid; w [H,D], b [H]."""

    name = "R1LambdaGate"
    inputs = ("x", "w", "b")
    outputs = ("lam",)
    types = AllowedTypes(input=WIDE, weight=("fp32",), output=("fp32",))

    def body(self, op: OpBuilder, *values: ir.Value) -> ir.Value:
        """The gate in FLOAT."""
        x, w, b = values
        y = op.MatMul(x, op.Transpose(to_float(op, w), perm=[1, 0]))
        lam: ir.Value = op.Sigmoid(op.Add(y, to_float(op, b)))
        return lam

    def spec_from_node(self, node: ir.Node) -> LinearSpec:
        """Read the product's sizes."""
        heads, width = self.sizes(node, "w", 0, 1)
        return LinearSpec(x=self.dims(node, "x"), in_features=width, out_features=heads, has_bias=True)

    def default_layer(self, node: ir.Node, activation: Precision, *, fp8: bool) -> LayerPrecision:
        """FP32 behind the activations' type."""
        return LayerPrecision(
            op=self.name,
            input=activation,
            weight="fp32",
            output="fp32",
            reason="lam decides which attention branch runs: FP32",
        )

    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """Replace the node by MatMul, Add and Sigmoid."""
        emit, dims = Emitter(node, str(node.name)), dims_of(node.outputs[0])
        x = emit.cast(self.required(node, "x"), data_type(layer.input), "CastInput")
        x = emit.cast(x, FLOAT, "CastToFloat")
        weight = matmul_weight(emit, self.required(node, "w"), FLOAT, FLOAT, None)
        bias = typed_weight(emit.graph, self.required(node, "b"), FLOAT)
        y = emit.node("MatMul", "MatMul", [x, weight], FLOAT, dims)
        y = emit.node("Add", "AddBias", [y, bias], FLOAT, dims)
        emit.finish(node, emit.node("Sigmoid", "Sigmoid", [y], FLOAT, dims))

    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """Product and result."""
        found = parts.product_types(parts.products)
        return ReadBack(
            {"product": "fp32", "output": layer.output},
            {"product": joined(list(found.values())), "output": parts.outputs("ACTIVATION")},
        )

    def cost(self, spec: LinearSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        """One small FP32 product."""
        rows, weights = spec.rows(call), spec.weights
        return cost_of(
            macs=[("fp32", rows * (weights + spec.out_features))],
            reads=[(layer.input, rows * spec.in_features), (layer.weight, weights + spec.out_features)],
            writes=[(layer.output, rows * spec.out_features)],
        )

    def reference_macs(self, spec: LinearSpec, call: CallSize) -> Mapping[str, int]:
        """The product, without its bias."""
        return {"": spec.rows(call) * spec.weights}


LAMBDA_GATE = LambdaGate()
