"""The work of each part of a model in the calls of a phase: what the engine executes, and what PyTorch does.

Nothing is computed here that an operator or the estimate does not say: costs are summed up over calls, and
become times by the roofline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import onnx_ir as ir

from r1trt.config import ModelConfig
from r1trt.estimate.gpus import Device
from r1trt.estimate.planned import PlannedModel
from r1trt.estimate.times import computing_seconds, moving_seconds, seconds_of_cost
from r1trt.families.tensors import place_of_name
from r1trt.ops.cost import NO_COST, CallSize, Cost
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.operator import Operator
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.checks import layer_nodes
from r1trt.profile.memory import held_bytes, live_bytes

Parts = Mapping[str, Cost]


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work of a part of one node in all calls of a phase.

    Attributes:
        layer: The plan's layer, of the sample's.
        operator: Its operator's name.
        part: Part of the operator; "" for all of it.
        cost: What the engine executes.
        reference_macs: Multiply-adds of the matrix products of the PyTorch reference.
        seconds: By the roofline. A node's parts share its time, which may be less than what each would take.
        computing: Seconds of the operations alone.
        moving: Seconds of the bytes alone.
        weight_bytes: Weights that it holds.
        kv_bytes: KV cache that it holds, of the whole batch.
        live_bytes: Bytes of the values between layers that are alive while its node runs.
    """

    layer: str
    operator: str
    part: str
    cost: Cost
    reference_macs: int
    seconds: float
    computing: float
    moving: float
    weight_bytes: int
    kv_bytes: int
    live_bytes: int

    @property
    def is_bound_by_compute(self) -> bool:
        """Whether its operations take longer than its bytes."""
        return self.computing >= self.moving


def work_of_calls(
    planned: PlannedModel, config: ModelConfig, calls: Sequence[CallSize], device: Device, cache_tokens: int
) -> list[Work]:
    """Work of every part of the sample's nodes.

    Args:
        planned: The model in types.
        config: The real model.
        calls: Of one phase.
        device: Whose roofline.
        cache_tokens: Rows of the KV cache, in tokens.

    Raises:
        ConfigError: The device does not compute in one of the model's types.
    """
    held = held_bytes(planned, calls[0].batch, cache_tokens)
    live = live_bytes(planned, max(calls, key=lambda call: call.tokens))
    found: list[Work] = []
    for name, node in layer_nodes(planned.sample.model).items():
        operator = layer_operator_of(node)
        assert operator is not None, "a plan has layers of operators alone"
        tally = _tally(operator, node, planned.plan.layers[name], calls, device)
        reference = _reference(planned, config, (name, node, operator), calls)
        for part, cost in tally.costs.items():
            found.append(
                Work(
                    layer=name,
                    operator=operator.name,
                    part=part,
                    cost=cost,
                    reference_macs=reference[part],
                    seconds=tally.seconds[part],
                    computing=computing_seconds(cost, device),
                    moving=moving_seconds(cost, device),
                    weight_bytes=held.weights.get((name, part), 0),
                    kv_bytes=held.kv_cache.get((name, part), 0),
                    live_bytes=live[name],
                )
            )
    return found


@dataclass(frozen=True, kw_only=True)
class _Tally:
    """Costs and seconds of a node's parts in all calls."""

    costs: Mapping[str, Cost]
    seconds: Mapping[str, float]


def _tally(
    operator: Operator[Any], node: ir.Node, layer: LayerPrecision, calls: Sequence[CallSize], device: Device
) -> _Tally:
    spec = operator.spec_from_node(node)
    pairs = list(_distinct(lambda call: operator.part_costs(spec, layer, call), calls))
    seconds = sum(count * seconds_of_cost(_sum(parts), device) for parts, count in pairs)
    costs = {part: _sum_of_calls(pairs, part) for part in pairs[0][0]}
    alone = {part: seconds_of_cost(cost, device) for part, cost in costs.items()}
    whole = sum(alone.values()) or 1.0
    return _Tally(costs=costs, seconds={part: seconds * own / whole for part, own in alone.items()})


def _reference(
    planned: PlannedModel,
    config: ModelConfig,
    named: tuple[str, ir.Node, Operator[Any]],
    calls: Sequence[CallSize],
) -> Counter[str]:
    """The reference's multiply-adds by part; latent attention is decompressed there."""
    name, node, operator = named
    spec = operator.spec_from_node(node)
    if operator is HLA_ATTENTION:
        place = place_of_name(planned.sample.real_names(name)[0])
        assert place is not None, "attention is in a layer"
        spec = HLA_ATTENTION.reference_spec(config.layers[place[0]].attention)
    first, last = (operator.reference_macs(spec, call) for call in (calls[0], calls[-1]))
    if first == last:
        return Counter({part: len(calls) * macs for part, macs in first.items()})
    total: Counter[str] = Counter()
    for call in calls:
        total.update(operator.reference_macs(spec, call))
    return total


def _distinct(costs: Callable[[CallSize], Parts], calls: Sequence[CallSize]) -> Iterator[tuple[Parts, int]]:
    """Costs of calls, and how many calls have them.

    Of calls that differ only in what lies in the cache, those of the first and of the last are equal only
    where the cache is not read: what is read of it grows with every call.
    """
    for _, group in groupby(calls, key=lambda call: (call.batch, call.tokens)):
        alike = list(group)
        first, last = costs(alike[0]), costs(alike[-1])
        if first == last:
            yield first, len(alike)
        else:
            yield from ((costs(call), 1) for call in alike)


def _sum(parts: Parts) -> Cost:
    return sum(parts.values(), NO_COST)


def _sum_of_calls(pairs: Sequence[tuple[Parts, int]], part: str) -> Cost:
    macs, read, written = Counter[str](), Counter[str](), Counter[str]()
    for parts, count in pairs:
        cost = parts[part].times(count)
        macs.update(cost.macs)
        read.update(cost.read_bytes)
        written.update(cost.written_bytes)
    return Cost(macs=dict(macs), read_bytes=dict(read), written_bytes=dict(written))
