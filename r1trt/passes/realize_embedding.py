"""R1Embedding as a Gather of rows in the plan's type."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.graph.edit import Emitter, data_type, dims_of, planned_nodes, required
from r1trt.graph.weights import typed_weight
from r1trt.precision.plan import PrecisionPlan


class RealizeEmbeddingPass(ir.passes.InPlacePass):
    """Look tokens up in a table of the plan's weight type."""

    def __init__(self, plan: PrecisionPlan) -> None:
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every embedding that the plan names."""
        modified = False
        for node, layer in planned_nodes(model, self._plan, "R1Embedding"):
            emit = Emitter(node, str(node.name))
            stored = data_type(layer.weight)
            table = typed_weight(emit.graph, required(node, 1), stored)
            dims = dims_of(node.outputs[0])
            rows = emit.node("Gather", "Gather", [table, required(node, 0)], stored, dims, {"axis": 0})
            emit.finish(node, emit.cast(rows, data_type(layer.output), "CastRows"))
            modified = True
        return ir.passes.PassResult(model, modified)
