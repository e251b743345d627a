"""What each decoder layer of a model takes: bytes of weights and caches, and modelled time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from r1trt.estimate.gpus import Device
from r1trt.estimate.kv_cache import token_bytes_of_node
from r1trt.estimate.placement import Use
from r1trt.estimate.planned import PlannedModel
from r1trt.estimate.times import seconds_of_cost
from r1trt.families.tensors import place_of_name
from r1trt.graph.interface import HEAD
from r1trt.ops.dynamic_moe import EXPERTS
from r1trt.ops.embedding import EMBEDDING
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.checks import layer_nodes


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One decoder layer, with the embedding in the first and the head in the last.

    Attributes:
        weight_bytes: Bytes of its typed weights.
        expert_bytes: Of its routed experts among them.
        cache_bytes: Bytes that a token takes in its caches.
        prefill_seconds: Modelled time in a prompt's largest call.
        decode_seconds: Modelled time in a step behind a full cache.
    """

    weight_bytes: int
    expert_bytes: int
    cache_bytes: int
    prefill_seconds: float
    decode_seconds: float


def sum_of_costs(costs: Iterable[LayerCost]) -> LayerCost:
    """What consecutive layers take together."""
    found = list(costs)
    return LayerCost(
        weight_bytes=sum(cost.weight_bytes for cost in found),
        expert_bytes=sum(cost.expert_bytes for cost in found),
        cache_bytes=sum(cost.cache_bytes for cost in found),
        prefill_seconds=sum(cost.prefill_seconds for cost in found),
        decode_seconds=sum(cost.decode_seconds for cost in found),
    )


def layer_costs(planned: PlannedModel, device: Device, use: Use) -> list[LayerCost]:
    """Costs of a model's layers, in order.

    Args:
        planned: The model in its types.
        device: Whose times.
        use: Rows, and tokens of a call and of the cache.

    Raises:
        ConfigError: The device does not compute in one of the plan's types.
    """
    nodes = layer_nodes(planned.sample.model)
    last = sum(map(len, planned.sample.layers)) - 1
    costs: list[list[LayerCost]] = [[] for _ in range(last + 1)]
    for name, size, experts in _weight_bytes(planned, nodes):
        for layer in _real_layers(planned, name, last):
            costs[layer].append(_cost(weight_bytes=size, expert_bytes=experts))
    for name, node in nodes.items():
        operator, layer_plan = layer_operator_of(node), planned.plan.layers[name]
        if operator is None:
            continue
        spec = operator.spec_from_node(node)
        prefill, decode = (
            seconds_of_cost(operator.cost(spec, layer_plan, call), device)
            for call in (use.prefill, use.decode)
        )
        cache = token_bytes_of_node(node, layer_plan)
        for layer in _real_layers(planned, name, last):
            costs[layer].append(_cost(cache_bytes=cache, prefill_seconds=prefill, decode_seconds=decode))
    return [sum_of_costs(own) for own in costs]


def _cost(
    *,
    weight_bytes: int = 0,
    expert_bytes: int = 0,
    cache_bytes: int = 0,
    prefill_seconds: float = 0.0,
    decode_seconds: float = 0.0,
) -> LayerCost:
    return LayerCost(
        weight_bytes=weight_bytes,
        expert_bytes=expert_bytes,
        cache_bytes=cache_bytes,
        prefill_seconds=prefill_seconds,
        decode_seconds=decode_seconds,
    )


def _weight_bytes(planned: PlannedModel, nodes: dict[str, ir.Node]) -> list[tuple[str, int, int]]:
    """The name of a node that reads each weight, its bytes, and those of them that are routed experts'."""
    found, head_has_weight = [], False
    for weight in planned.weights:
        reader = weight.name if place_of_name(weight.name) is not None else weight.layer or ""
        head_has_weight |= reader == HEAD
        found.append((reader, weight.bytes, weight.bytes if weight.part == EXPERTS else 0))
    if not head_has_weight:  # tied: the first part and the last one hold it, each for itself
        tied = [
            size for reader, size, _ in found if reader in nodes and nodes[reader].op_type == EMBEDDING.name
        ]
        found += [(HEAD, size, 0) for size in tied]
    return found


def _real_layers(planned: PlannedModel, name: str, last: int) -> tuple[int, ...]:
    """Layers that a node or a weight of the sample is counted in."""
    place = place_of_name(name)
    if place is not None:
        return planned.sample.layers[place[0]]
    return (last,) if name in (HEAD, "model.norm") else (0,)
