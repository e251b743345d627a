"""Experts in FP32 as ONNX Runtime's own operator for them reads their weights."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.graph.alternating import AlternatingTensor
from r1trt.graph.edit import register
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.registry import operator_of


class AlternateExpertsPass(ir.passes.InPlacePass):
    """Rows of gate and up take turns in R1DynamicMoE nodes whose values are all FP32, and the node says so.

    A body for ONNX Runtime is then com.microsoft.MoE instead of a loop that copies each expert's weights.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The weights are read when they are written."""
        modified = False
        for node in model.graph:
            if operator_of(node) is DYNAMIC_MOE and _is_wide(node):
                _alternate(model.graph, node)
                modified = True
        return ir.passes.PassResult(model, modified)


def _stacks(node: ir.Node) -> list[ir.Value]:
    return [DYNAMIC_MOE.required(node, part.input("w_gate_up")) for part in DYNAMIC_MOE.parts(node)]


def _is_wide(node: ir.Node) -> bool:
    spec = DYNAMIC_MOE.spec_from_node(node)
    wide = {spec.activation, spec.weights} == {ir.DataType.FLOAT} and spec.scales == "none"
    return wide and all(stack.const_value is not None and len(stack.uses()) == 1 for stack in _stacks(node))


def _alternate(graph: ir.Graph, node: ir.Node) -> None:
    for part, stack in zip(DYNAMIC_MOE.parts(node), _stacks(node), strict=True):
        assert stack.const_value is not None
        tensor = AlternatingTensor(stack.const_value, name=f"{stack.name}.alternating")
        DYNAMIC_MOE.set_input(node, part.input("w_gate_up"), register(graph, tensor))
    node.attributes["alternates"] = ir.AttrInt64("alternates", 1)
