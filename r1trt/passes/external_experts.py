"""Expert stacks as inputs of a graph, which are bound when the engine runs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from r1trt.errors import PlanError
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.registry import operator_of

_WEIGHTS, _SCALES = ("w_gate_up", "w_down"), ("gate_up_scale", "down_scale")


class ExternalExpertsPass(ir.passes.InPlacePass):
    """Makes the experts' weights, and the block scales that FP8 ones have, inputs with a default.

    The default is what the passes behind this one still look at; `r1trt.graph.stacks.detach_stacks` takes it
    away at last. Scales of which an expert has one stay constants: with them a product stays FP8 x FP8.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Needs typed R1DynamicMoE nodes; raises PlanError where their experts are in blocks of integers."""
        graph = model.graph
        found = {
            id(value): value for node in graph if operator_of(node) is DYNAMIC_MOE for value in _stacks(node)
        }
        for value in found.values():
            graph.inputs.append(value)
        return ir.passes.PassResult(model, bool(found))


def _stacks(node: ir.Node) -> Iterator[ir.Value]:
    """What an R1DynamicMoE node reads for its routed experts alone, in the order of its parts."""
    spec = DYNAMIC_MOE.spec_from_node(node)
    if spec.block_size is not None:
        raise PlanError(
            "Experts in blocks of integers are no inputs of an engine: the checkpoint does not hold them so.",
            where=node.name,
            found=f"{spec.bits} bits in blocks of {spec.block_size}",
            fix="build with --no-external-experts, or with a precision whose experts are floats",
        )
    names = (*_WEIGHTS, *_SCALES) if spec.scales == "block" else _WEIGHTS
    for part in DYNAMIC_MOE.parts(node):
        for name in names:
            yield DYNAMIC_MOE.required(node, part.input(name))
