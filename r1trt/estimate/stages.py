"""A planned model in stages of consecutive layers: what each holds, and how long each takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r1trt.config.checks import require
from r1trt.estimate.gpus import Device
from r1trt.estimate.kv_cache import token_bytes_of_node
from r1trt.estimate.planned import PlannedModel
from r1trt.estimate.times import seconds_of_cost
from r1trt.families.tensors import place_of_name
from r1trt.ops.cost import NO_COST, Cost
from r1trt.precision.checks import layer_nodes

_EXPERTS = ".mlp.experts."
_FIRST = "model.embed_tokens"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Consecutive layers of a planned model; the first stage has the embedding too, the last the head.

    Attributes:
        planned: The model.
        first: Its first layer.
        last: Its last layer.
        num_layers: Layers of the model.
    """

    planned: PlannedModel
    first: int
    last: int
    num_layers: int

    def count(self, name: str | None) -> int:
        """How many nodes or weights of this stage one of the sample's names stands for."""
        place = place_of_name(name or "")
        if place is not None:
            return sum(self.first <= layer <= self.last for layer in self.planned.sample.layers[place[0]])
        # What has no layer belongs to the embedding, or lies behind the last layer.
        return int(self.first == 0 if str(name).startswith(_FIRST) else self.last == self.num_layers - 1)

    @property
    def weight_bytes(self) -> int:
        """Bytes of its typed weights."""
        return sum(self.count(weight.name) * weight.bytes for weight in self.planned.weights)

    @property
    def expert_bytes(self) -> int:
        """Bytes of the experts among them, shared ones not included."""
        experts = [weight for weight in self.planned.weights if _EXPERTS in weight.name]
        return sum(self.count(weight.name) * weight.bytes for weight in experts)

    @property
    def cache_token_bytes(self) -> int:
        """Bytes that a token takes in the caches of its layers."""
        nodes = layer_nodes(self.planned.sample.model).items()
        layers = self.planned.plan.layers
        return sum(self.count(name) * token_bytes_of_node(node, layers[name]) for name, node in nodes)

    def cost(self, costs: Mapping[str, Cost]) -> Cost:
        """Work of one call, whose costs of the sample's layers `PlannedModel.costs` gives."""
        return sum((cost.times(self.count(name)) for name, cost in costs.items()), start=NO_COST)

    def seconds(self, costs: Mapping[str, Cost], device: Device) -> float:
        """Time of such a call by the roofline, layer by layer.

        Raises:
            ConfigError: The device does not compute in one of the plan's types.
        """
        return sum(self.count(name) * seconds_of_cost(cost, device) for name, cost in costs.items())


def stages_of(planned: PlannedModel, count: int) -> tuple[Stage, ...]:
    """Cuts a model into stages so that the one with most bytes of weights has as few as possible.

    Args:
        planned: The model.
        count: Stages.

    Raises:
        ConfigError: There are fewer layers than stages.
    """
    layers = sum(map(len, planned.sample.layers))
    require(
        1 <= count <= layers, "A stage has at least one layer", found=count, expected=f"1 to {layers} stages"
    )
    sizes = [_stage(planned, layer, layer, layers).weight_bytes for layer in range(layers)]
    ends = even_ends(sizes, count)
    starts = [0, *(end + 1 for end in ends[:-1])]
    return tuple(_stage(planned, start, end, layers) for start, end in zip(starts, ends, strict=True))


def even_ends(sizes: Sequence[int], count: int) -> list[int]:
    """The last place of each of `count` runs of neighbours whose largest sum is as small as possible."""
    low, high = max(sizes), sum(sizes)
    while low < high:
        limit = (low + high) // 2
        low, high = (low, limit) if len(_ends(sizes, limit)) <= count else (limit + 1, high)
    ends = _ends(sizes, low)
    # Fewer would do: runs of several places give one away, from the back.
    missing = [place for place in reversed(range(len(sizes))) if place not in ends][: count - len(ends)]
    return sorted([*ends, *missing])


def _ends(sizes: Sequence[int], limit: int) -> list[int]:
    ends, held = [], 0
    for place, size in enumerate(sizes):
        if held and held + size > limit:
            ends.append(place - 1)
            held = 0
        held += size
    return [*ends, len(sizes) - 1]


def _stage(planned: PlannedModel, first: int, last: int, num_layers: int) -> Stage:
    return Stage(planned=planned, first=first, last=last, num_layers=num_layers)
