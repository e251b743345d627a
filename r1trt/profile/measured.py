"""What was measured: seconds of the nodes that a backend ran, and which layers of the plan each computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from r1trt.estimate.planned import PlannedModel
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.checks import layer_nodes
from r1trt.profile.requests import Phase

_NANO = 1e-9


@dataclass(frozen=True, kw_only=True)
class ExecutedNode:
    """A node that a backend ran, in all calls of a phase.

    Attributes:
        name: As the backend calls it.
        layers: Layers of the plan that it computes; none for what serves no single layer.
        seconds: Without the nodes inside of it.
    """

    name: str
    layers: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MeasuredPhase:
    """One phase.

    Attributes:
        seconds: All of its calls, with nothing but the clock beside them.
        profiled_seconds: The same with a profiler, which takes time of its own.
        nodes: What was executed, by the profiler.
    """

    seconds: float
    profiled_seconds: float
    nodes: tuple[ExecutedNode, ...]

    @property
    def outside(self) -> float:
        """Seconds that belong to no node; less than a nanosecond is what rounding leaves."""
        rest = self.seconds - sum(node.seconds for node in self.nodes)
        return rest if rest > _NANO else 0.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measurement.

    Attributes:
        backend: What ran, and its version.
        where: What it ran on.
        phases: By phase.
        others_share: Share of the processors that other processes took meanwhile.
    """

    backend: str
    where: str
    phases: Mapping[Phase, MeasuredPhase]
    others_share: float = 0.0


def owners(
    planned: PlannedModel, nodes: Sequence[ExecutedNode], seconds: Mapping[str, float]
) -> dict[str, str]:
    """By which layer's node each layer of a plan was computed: its own, or one that it was fused into.

    Args:
        planned: The model; its sample is the whole graph.
        nodes: What was executed.
        seconds: Time of each layer by the roofline: a fused node counts as the heaviest of its layers.
    """
    found: dict[str, str] = {}
    for node in nodes:
        heaviest = max(node.layers, key=lambda name: seconds.get(name, 0.0), default=None)
        for name in node.layers:
            found.setdefault(name, str(heaviest))
        if heaviest is not None:
            found[heaviest] = heaviest
    graph = layer_nodes(planned.sample.model)
    for name, layer in graph.items():
        if name not in found:
            neighbour = _sibling(name, layer, graph, found) or _reader(layer, found)
            found[name] = name if neighbour is None else found[neighbour]
    return found


def _sibling(name: str, node: ir.Node, graph: Mapping[str, ir.Node], found: Mapping[str, str]) -> str | None:
    """A layer of the same operator that reads the same value: products of it are made together."""
    value = node.inputs[0]
    readers = [] if value is None else [str(user.name) for user, at in value.uses() if at == 0]
    same = (other for other in readers if other != name and found.get(other) == other)
    return next((other for other in same if graph[other].op_type == node.op_type), None)


def _reader(node: ir.Node, found: Mapping[str, str]) -> str | None:
    """The next layer that reads a node's results, by way of nodes that are no layers."""
    waiting = list(node.outputs)
    while waiting:
        for user, _ in waiting.pop(0).uses():
            if str(user.name) in found:
                return str(user.name)
            if layer_operator_of(user) is None:
                waiting += user.outputs
    return None
