"""R1DynamicRoPE and R1HLAAttention stay nodes; their activations and the KV cache take the plan's type."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.graph.edit import Emitter, cast_input, data_type, planned_nodes, retype_outputs
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.precision.plan import PrecisionPlan

# lam, inv_freq and the lengths keep the types that the operators fix.
_ACTIVATIONS = {
    DYNAMIC_ROPE.name: ("q", "k"),
    HLA_ATTENTION.name: ("q", "k", "v", "key_cache", "value_cache"),
}
_OPERATORS = {operator.name: operator for operator in (DYNAMIC_ROPE, HLA_ATTENTION)}


class RealizeAttentionPass(ir.passes.InPlacePass):
    """Cast what enters and leaves the two operators."""

    def __init__(self, plan: PrecisionPlan) -> None:
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Retype every rotation and attention that the plan names."""
        modified = False
        for node, layer in planned_nodes(model, self._plan, *_ACTIVATIONS):
            key, act = str(node.name), data_type(layer.input)
            emit, names = Emitter(node, key), _OPERATORS[node.op_type].inputs
            for name in _ACTIVATIONS[node.op_type]:
                cast_input(emit, node, names.index(name), act)
            retype_outputs(node, key, act)
            modified = True
        return ir.passes.PassResult(model, modified)
