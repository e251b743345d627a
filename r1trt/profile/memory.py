"""What lies in a device's memory: weights, KV cache, and what is alive between the layers of a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from r1trt.data_types import DATA_TYPES, OF_ONNX
from r1trt.estimate.kv_cache import token_bytes_of_node
from r1trt.estimate.planned import PlannedModel, dims_of_value
from r1trt.estimate.typed_weights import TypedWeight
from r1trt.families.tensors import place_of_name
from r1trt.ops.cost import CallSize
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.checks import layer_nodes

Key = tuple[str, str]
"""A layer of the sample's plan, and a part of its operator."""
_VIEW = "Reshape"


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes that stay from call to call, by layer of the sample's plan and part of its operator.

    Attributes:
        weights: Typed weights; the key is ("", "") for constants that no single layer reads.
        kv_cache: KV cache of the whole batch.
    """

    weights: Mapping[Key, int]
    kv_cache: Mapping[Key, int]


def held_bytes(planned: PlannedModel, batch: int, tokens: int) -> Held:
    """Weights, and the cache of a batch.

    Args:
        planned: The model in types.
        batch: Rows.
        tokens: Rows of each cache, in tokens.
    """
    weights: Counter[Key] = Counter()
    for weight in planned.weights:
        key = (weight.layer, weight.part) if weight.layer and _is_its_own(weight) else ("", "")
        weights[key] += weight.bytes
    caches: Counter[Key] = Counter()
    for name, node in layer_nodes(planned.sample.model).items():
        operator, size = layer_operator_of(node), token_bytes_of_node(node, planned.plan.layers[name])
        if operator is not None and size:
            part = operator.part_of_cache(operator.spec_from_node(node))
            caches[name, part] += batch * tokens * size
    return Held(weights=weights, kv_cache=caches)


def _is_its_own(weight: TypedWeight) -> bool:
    """Whether a weight is one of each layer of its kind, rather than one that all of them read."""
    outside = place_of_name(weight.name) is None
    return outside == (place_of_name(weight.layer or "") is None)


def live_bytes(planned: PlannedModel, call: CallSize) -> dict[str, int]:
    """Bytes of the values between layers that are alive while each layer of the sample runs.

    Its own inputs and results are among them; what it needs inside, weights and caches are not.

    Args:
        planned: The model in types.
        call: The call.
    """
    graph = planned.sample.model.graph
    nodes = list(graph)
    sizes = _value_bytes(planned, call)
    last = _last_uses(nodes, sizes)
    found: dict[str, int] = {}
    alive = sum(size for value, size in sizes.items() if value.producer() is None)
    for index, node in enumerate(nodes):
        alive += sum(sizes.get(value, 0) for value in node.outputs)
        if node.name in planned.plan.layers:
            found[str(node.name)] = alive
        alive -= sum(sizes[value] for value in last.get(index, ()))
    return found


def _value_bytes(planned: PlannedModel, call: CallSize) -> dict[ir.Value, int]:
    """Bytes of every value that has a batch; a view has none of its own, and caches are counted elsewhere."""
    graph = planned.sample.model.graph
    width: dict[ir.Value, int] = {}
    caches: set[ir.Value] = set()
    for node in graph:
        operator, layer = layer_operator_of(node), planned.plan.layers.get(str(node.name))
        if operator is not None and layer is not None:
            caches |= {value for _, given, made in operator.cache_values(node) for value in (given, made)}
            width |= dict.fromkeys(node.outputs, DATA_TYPES[layer.output].bytes)
        else:
            source = next((width[value] for value in node.inputs if value in width), None)
            width |= {value: source or _own_bytes(value) for value in node.outputs}
    width |= {value: _own_bytes(value) for value in (*graph.inputs, *graph.outputs)}
    return {
        value: size * call.elements(dims_of_value(value))
        for value, size in width.items()
        if value not in caches and not _is_view(value) and _has_batch(value)
    }


def _own_bytes(value: ir.Value) -> int:
    assert value.dtype is not None, "every value of an exported graph is typed"
    return OF_ONNX[value.dtype].bytes


def _has_batch(value: ir.Value) -> bool:
    return any(not isinstance(dim, int) for dim in value.shape or ())


def _is_view(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == _VIEW and producer.domain == ""


def _last_uses(nodes: list[ir.Node], sizes: Mapping[ir.Value, int]) -> dict[int, list[ir.Value]]:
    """Values by the index of the last node that reads them, views of them too; results stay to the end."""
    found: dict[ir.Value, int] = {}
    for index, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None:
                found[_root(value)] = index
        for value in node.outputs:
            found.setdefault(_root(value), index)
    ended: dict[int, list[ir.Value]] = {}
    for value, index in found.items():
        if value in sizes and not value.is_graph_output():
            ended.setdefault(index, []).append(value)
    return ended


def _root(value: ir.Value) -> ir.Value:
    """The value that a view shows."""
    while _is_view(value):
        producer = value.producer()
        assert producer is not None and producer.inputs[0] is not None
        value = producer.inputs[0]
    return value
