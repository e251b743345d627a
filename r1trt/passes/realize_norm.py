"""R1RMSNorm as Cast, RMSNormalization in FP32, Cast: one fused kernel in TensorRT, gamma in FP32."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.graph.edit import FLOAT, Emitter, data_type, dims_of, planned_nodes, required
from r1trt.graph.weights import typed_weight
from r1trt.precision.plan import PrecisionPlan


class RealizeNormPass(ir.passes.InPlacePass):
    """Norms read and write the plan's types and compute in FP32."""

    def __init__(self, plan: PrecisionPlan) -> None:
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every norm that the plan names."""
        modified = False
        for node, layer in planned_nodes(model, self._plan, "R1RMSNorm"):
            emit = Emitter(node, str(node.name))
            x = emit.cast(required(node, 0), data_type(layer.input), "CastInput")
            x = emit.cast(x, FLOAT, "CastToFloat")
            gamma = typed_weight(emit.graph, required(node, 1), FLOAT)
            attributes = {"axis": -1, "epsilon": node.attributes["epsilon"].as_float()}
            y = emit.node("RMSNormalization", "RMSNormalization", [x, gamma], FLOAT, dims_of(x), attributes)
            emit.finish(node, emit.cast(y, data_type(layer.output), "CastFromFloat"))
            modified = True
        return ir.passes.PassResult(model, modified)
