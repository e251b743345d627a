"""Each layer in its planned types: every operator writes its own into the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.operator import Operator
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.plan import PrecisionPlan


class RealizeLayersPass(ir.passes.InPlacePass):
    """Plain typed nodes for linears, norms and the like; the three operators stay, retyped."""

    def __init__(self, plan: PrecisionPlan) -> None:
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Realize every layer that the plan names; values between layers stay FLOAT."""
        modified = False
        for node, operator, layer in planned_layers(model, self._plan):
            operator.realize(node, layer)
            modified = True
        return ir.passes.PassResult(model, modified)


def planned_layers(
    model: ir.Model, plan: PrecisionPlan
) -> Iterator[tuple[ir.Node, Operator[Any], LayerPrecision]]:
    """The plan's nodes in graph order; safe against edits of the graph while it runs."""
    for node in list(model.graph):
        layer, operator = plan.layers.get(str(node.name)), layer_operator_of(node)
        if layer is not None and operator is not None:
            yield node, operator, layer
