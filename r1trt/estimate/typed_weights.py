"""The weights that a typed graph holds, each with the layer of the plan that reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.data_types import OF_ONNX
from r1trt.graph.network_view import plan_key
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.operator import ScaledWeight
from r1trt.ops.registry import layer_operator_of
from r1trt.passes.realize_layers import RealizeLayersPass
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan


@dataclass(frozen=True, kw_only=True)
class TypedWeight:
    """An initializer of a typed graph.

    Attributes:
        name: Its name.
        layer: Layer of the plan that reads it; the first one where several do; None where none does.
        part: Part of the operator that reads it.
        data_type: The type's name in plans.
        bytes: Its size.
    """

    name: str
    layer: str | None
    part: str
    data_type: str
    bytes: int


def typed_weights(model: ir.Model, plan: PrecisionPlan) -> tuple[TypedWeight, ...]:
    """Types an exported graph, without reading any weight, and lists its initializers.

    Args:
        model: The graph; it stays as it is.
        plan: Its plan; scales that it lacks are taken to be 1, as many as calibration would find.
    """
    nodes = layer_nodes(model)
    layers = {name: _with_any_scales(nodes[name], layer) for name, layer in plan.layers.items()}
    realized = RealizeLayersPass(replace(plan, layers=layers))(model.clone()).model
    # Experts were stacked, and what they were stacked from goes.
    graph = RemoveUnusedNodesPass()(realized).model.graph
    return tuple(
        TypedWeight(
            name=name,
            **_reader(value, plan),
            data_type=OF_ONNX[value.const_value.dtype].name,
            bytes=value.const_value.nbytes,
        )
        for name, value in graph.initializers.items()
        if value.const_value is not None
    )


def _reader(value: ir.Value, plan: PrecisionPlan) -> dict[str, Any]:
    """Layer and part that a weight goes to, by way of nodes that no plan has an entry for."""
    waiting = [value]
    while waiting:
        for node, index in waiting.pop(0).uses():
            key = plan_key(node.name, plan.layers)
            if key is not None:
                operator = layer_operator_of(node)
                part = "" if operator is None else operator.part_of_input(operator.input_names(node)[index])
                return {"layer": key, "part": part}
            waiting += node.outputs
    return {"layer": None, "part": ""}


def _with_any_scales(node: ir.Node, layer: LayerPrecision) -> LayerPrecision:
    """A layer whose open scales are 1: as many as calibration would find."""
    operator = layer_operator_of(node)
    assert operator is not None, "a plan has layers of operators alone"
    weights = operator.scaled_weights(node, by_row=False)
    scales: dict[str, Any] = dict.fromkeys(operator.missing_input_scales(layer), 1.0)
    for name in operator.missing_weight_scales(layer):
        scales[name] = _ones(weights[name])
    if isinstance(scales.get("weight_scale"), tuple):
        scales["weight_axis"] = 0
    return replace(layer, **scales)


def _ones(weights: list[ScaledWeight]) -> float | tuple[float, ...]:
    if all(weight.axis is None for weight in weights):
        return 1.0
    counts = [1 if weight.axis is None else _size(weight.value, weight.axis) for weight in weights]
    return (1.0,) * sum(counts)


def _size(value: ir.Value, axis: int) -> int:
    size = value.shape[axis] if value.shape is not None else None
    assert isinstance(size, int), "weights have static sizes"
    return size
