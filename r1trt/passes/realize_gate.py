"""R1LambdaGate as an FP32 product of the un-quantized norm, and a Sigmoid."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.graph.edit import FLOAT, Emitter, data_type, dims_of, planned_nodes, required
from r1trt.graph.weights import matmul_weight, typed_weight
from r1trt.precision.plan import PrecisionPlan


class RealizeGatePass(ir.passes.InPlacePass):
    """lam = sigmoid(x @ w.T + b), all of it FP32."""

    def __init__(self, plan: PrecisionPlan) -> None:
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every lambda gate that the plan names."""
        modified = False
        for node, layer in planned_nodes(model, self._plan, "R1LambdaGate"):
            emit, dims = Emitter(node, str(node.name)), dims_of(node.outputs[0])
            x = emit.cast(required(node, 0), data_type(layer.input), "CastInput")
            x = emit.cast(x, FLOAT, "CastToFloat")
            weight = matmul_weight(emit, required(node, 1), FLOAT, FLOAT, None)
            bias = typed_weight(emit.graph, required(node, 2), FLOAT)
            y = emit.node("MatMul", "MatMul", [x, weight], FLOAT, dims)
            y = emit.node("Add", "AddBias", [y, bias], FLOAT, dims)
            emit.finish(node, emit.node("Sigmoid", "Sigmoid", [y], FLOAT, dims))
            modified = True
        return ir.passes.PassResult(model, modified)
