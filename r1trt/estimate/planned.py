"""A model in the types of a precision plan: bytes of its weights, its cache, its activations, its work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.arch import BuildPrecision, architecture
from r1trt.data_types import DATA_TYPES, OF_ONNX
from r1trt.estimate.kv_cache import KvCache, kv_cache_of_plan
from r1trt.estimate.sample import Sample, sample_of_model
from r1trt.estimate.source import SizedModel
from r1trt.ops.cost import CallSize, Cost, Dims
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.operator import ScaledWeight
from r1trt.ops.registry import layer_operator_of
from r1trt.passes.realize_layers import RealizeLayersPass
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import plan_from_rules


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A model in the types that the rules give it.

    Attributes:
        precision: What was asked for.
        arch: The `--arch` that the plan is for.
        sample: Its graph.
        plan: The sample's plan.
        weight_bytes: Bytes of the typed weights, scales included, by the type's name in plans.
        kv_cache: Its KV cache.
    """

    precision: BuildPrecision
    arch: str
    sample: Sample
    plan: PrecisionPlan
    weight_bytes: Mapping[str, int]
    kv_cache: KvCache

    @property
    def bytes(self) -> int:
        """Bytes of all typed weights."""
        return sum(self.weight_bytes.values())

    def work(self, call: CallSize) -> list[tuple[Cost, int]]:
        """Costs of all layers in one call, each with how many layers have it."""
        found: list[tuple[Cost, int]] = []
        for name, node in layer_nodes(self.sample.model).items():
            operator = layer_operator_of(node)
            if operator is not None:
                cost = operator.cost(operator.spec_from_node(node), self.plan.layers[name], call)
                found.append((cost, self.sample.count(name)))
        return found

    def activation_bytes(self, call: CallSize) -> int:
        """Bytes of what the largest layer reads and writes in one call, without weights and caches."""
        nodes = layer_nodes(self.sample.model).items()
        return max(_activations(node, self.plan.layers[name], call) for name, node in nodes)


def planned_model(model: SizedModel, arch: str, precision: BuildPrecision, capacity: int) -> PlannedModel:
    """Plans a model by the rules, as a build would, with scales that are not measured.

    Raises:
        ConfigError: There is no such architecture.
        PlanError: The architecture lacks the precision.
    """
    sample = sample_of_model(model, capacity)
    plan = plan_from_rules(sample.model, architecture(arch).name, precision)
    return PlannedModel(
        precision=precision,
        arch=arch,
        sample=sample,
        plan=plan,
        weight_bytes=_typed_weight_bytes(sample, plan),
        kv_cache=kv_cache_of_plan(model.config, sample, plan),
    )


def _typed_weight_bytes(sample: Sample, plan: PrecisionPlan) -> dict[str, int]:
    nodes = layer_nodes(sample.model)
    layers = {name: _with_any_scales(nodes[name], layer) for name, layer in plan.layers.items()}
    realized = RealizeLayersPass(replace(plan, layers=layers))(sample.model.clone()).model
    # Experts were stacked, and what they were stacked from goes.
    graph = RemoveUnusedNodesPass()(realized).model.graph
    found: Counter[str] = Counter()
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            found[OF_ONNX[value.const_value.dtype].name] += sample.count(name) * value.const_value.nbytes
    return dict(found)


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


def _activations(node: ir.Node, layer: LayerPrecision, call: CallSize) -> int:
    operator = layer_operator_of(node)
    caches = [] if operator is None else operator.cache_values(node)
    outside = {id(value) for _, given, made in caches for value in (given, made)}
    values = [
        value for value in (*node.inputs, *node.outputs) if value is not None and id(value) not in outside
    ]
    shapes = [_dims(value) for value in values if value.const_value is None]
    # What comes from weights alone has no batch.
    elements = sum(call.elements(dims) for dims in shapes if any(isinstance(size, str) for size in dims))
    return elements * DATA_TYPES[layer.output].bytes


def _dims(value: ir.Value) -> Dims:
    return tuple(size if isinstance(size, int) else str(size) for size in value.shape or ())
