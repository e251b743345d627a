"""A model in the types of a precision plan: bytes of its weights, its cache, its activations, its work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from r1trt.arch import BuildPrecision, architecture
from r1trt.data_types import DATA_TYPES
from r1trt.errors import PlanError
from r1trt.estimate.kv_cache import KvCache, kv_cache_of_plan
from r1trt.estimate.sample import Sample, sample_of_model
from r1trt.estimate.source import SizedModel
from r1trt.estimate.typed_weights import TypedWeight, typed_weights
from r1trt.ops.cost import CallSize, Cost, Dims
from r1trt.ops.dynamic_moe import EXPERTS
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.registry import layer_operator_of
from r1trt.passes.remove_cache import RemoveCachePass
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
        weights: The sample's typed weights, scales included.
        kv_cache: Its KV cache.
    """

    precision: BuildPrecision
    arch: str
    sample: Sample
    plan: PrecisionPlan
    weights: tuple[TypedWeight, ...]
    kv_cache: KvCache

    @property
    def weight_bytes(self) -> Mapping[str, int]:
        """Bytes of the real model's typed weights by the type's name in plans."""
        found: Counter[str] = Counter()
        for weight in self.weights:
            found[weight.data_type] += self.sample.count(weight.name) * weight.bytes
        return dict(found)

    @property
    def bytes(self) -> int:
        """Bytes of all typed weights."""
        return sum(self.weight_bytes.values())

    @property
    def expert_bytes(self) -> int:
        """Bytes of the routed experts' typed weights, block scales included."""
        experts = [weight for weight in self.weights if weight.part == EXPERTS]
        return sum(self.sample.count(weight.name) * weight.bytes for weight in experts)

    def costs(self, call: CallSize) -> dict[str, Cost]:
        """Cost of each of the sample's layers in one call, by its name."""
        found: dict[str, Cost] = {}
        for name, node in layer_nodes(self.sample.model).items():
            operator = layer_operator_of(node)
            if operator is not None:
                found[name] = operator.cost(operator.spec_from_node(node), self.plan.layers[name], call)
        return found

    def work(self, call: CallSize) -> list[tuple[Cost, int]]:
        """Costs of all layers in one call, each with how many layers have it."""
        return [(cost, self.sample.count(name)) for name, cost in self.costs(call).items()]

    def activation_bytes(self, call: CallSize) -> int:
        """Bytes of what the largest layer reads and writes in one call, without weights and caches."""
        nodes = layer_nodes(self.sample.model).items()
        return max(_activations(node, self.plan.layers[name], call) for name, node in nodes)


def planned_model(
    model: SizedModel,
    arch: str,
    precision: BuildPrecision,
    capacity: int,
    *,
    last_token_logits: bool = False,
) -> PlannedModel:
    """Plans a model by the rules, as a build would, with scales that are not measured.

    Args:
        model: The model.
        arch: `--arch`.
        precision: What is asked for.
        capacity: Rows of the KV cache in tokens.
        last_token_logits: Compute the logits of each sequence's last token only.

    Raises:
        ConfigError: There is no such architecture.
        PlanError: The architecture lacks the precision.
    """
    sample = sample_of_model(model, capacity, last_token_logits=last_token_logits)
    plan = plan_from_rules(sample.model, architecture(arch).name, precision)
    return _planned(model, sample, plan)


def planned_model_from_plan(
    model: SizedModel, plan: PrecisionPlan, capacity: int | None, *, last_token_logits: bool = False
) -> PlannedModel:
    """A model in the types of a build's plan, whose layers may differ though they are of one kind.

    Args:
        model: The model.
        plan: The plan of its whole graph.
        capacity: Rows of the KV cache in tokens; None for a scoring graph without one.
        last_token_logits: Compute the logits of each sequence's last token only.

    Raises:
        PlanError: The plan is of another model.
    """
    marks = range(model.config.num_layers)
    sample = sample_of_model(model, capacity or 1, last_token_logits=last_token_logits, marks=marks)
    if capacity is None:
        RemoveCachePass()(sample.model)
    missing = sorted(layer_nodes(sample.model).keys() ^ plan.layers.keys())
    if missing:
        raise PlanError("The plan's layers are not those of the model.", found=missing[0])
    return _planned(model, sample, plan)


def _planned(model: SizedModel, sample: Sample, plan: PrecisionPlan) -> PlannedModel:
    return PlannedModel(
        precision=plan.precision,
        arch=plan.arch,
        sample=sample,
        plan=plan,
        weights=typed_weights(sample.model, plan),
        kv_cache=kv_cache_of_plan(model.config, sample, plan),
    )


def _activations(node: ir.Node, layer: LayerPrecision, call: CallSize) -> int:
    operator = layer_operator_of(node)
    caches = [] if operator is None else operator.cache_values(node)
    outside = {id(value) for _, given, made in caches for value in (given, made)}
    values = [
        value for value in (*node.inputs, *node.outputs) if value is not None and id(value) not in outside
    ]
    shapes = [dims_of_value(value) for value in values if value.const_value is None]
    # What comes from weights alone has no batch.
    elements = sum(call.elements(dims) for dims in shapes if any(isinstance(size, str) for size in dims))
    return elements * DATA_TYPES[layer.output].bytes


def dims_of_value(value: ir.Value) -> Dims:
    """Shape of a value: numbers, and the names of a call's sizes."""
    return tuple(size if isinstance(size, int) else str(size) for size in value.shape or ())
