"""Which layers become a part: cuts that leave the largest one as small as possible, in bytes and in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from r1trt.errors import UsageError
from r1trt.estimate.gpus import Device
from r1trt.estimate.placement import RESERVED_BYTES, Use
from r1trt.estimate.planned import PlannedModel
from r1trt.estimate.steps import engine_bytes
from r1trt.parts.costs import LayerCost, layer_costs, sum_of_costs
from r1trt.text import size_text


@dataclass(frozen=True, kw_only=True)
class PlannedPart:
    """One part.

    Attributes:
        index: Its place, from 0.
        first_layer: Its first decoder layer.
        last_layer: Its last one.
        cost: What its layers take.
        device: Device that its times are modelled on.
        device_count: Devices that hold it, its caches and what a call computes.
    """

    index: int
    first_layer: int
    last_layer: int
    cost: LayerCost
    device: str
    device_count: int

    @property
    def directory(self) -> str:
        """The name of its directory."""
        return f"part-{self.index:02d}"


def parts_of_costs(costs: Sequence[LayerCost], *, count: int | None, max_bytes: int | None) -> list[int]:
    """The last layer of each part.

    Of all cuts into so many parts, those that make the largest share of a part smallest, where a part's share
    is that of the bytes or of a step's time, whichever is more: memory is bounded by the one, the pace of a
    pipeline by the other.

    Args:
        costs: Of the layers.
        count: Number of parts; None takes as few as keep within `max_bytes`.
        max_bytes: Most bytes of a part's weights; None sets no limit.

    Raises:
        UsageError: There are fewer layers than parts, or a layer alone is larger than a part may be.
    """
    limit = max_bytes if max_bytes is not None else sum(cost.weight_bytes for cost in costs)
    _require_possible(costs, count, limit)
    least = _fewest(costs, limit)
    if count is not None and count < least:
        raise UsageError(
            "Parts of this size are more than were asked for.",
            found=f"--parts {count} --max-part-bytes {max_bytes}",
            expected=f"at least {least} parts",
            fix="leave one of the options out",
        )
    return _balanced(costs, count or least, limit)


def _require_possible(costs: Sequence[LayerCost], count: int | None, limit: int) -> None:
    if count is not None and not 1 <= count <= len(costs):
        raise UsageError(
            "A part has one layer at least.", found=f"--parts {count}", expected=f"1 to {len(costs)}"
        )
    largest = max(range(len(costs)), key=lambda index: costs[index].weight_bytes)
    if costs[largest].weight_bytes > limit:
        raise UsageError(
            "One layer is larger than a part may be.",
            where=f"layer {largest}, embedding and head included",
            found=f"--max-part-bytes {limit}",
            expected=f"at least {costs[largest].weight_bytes} ({size_text(costs[largest].weight_bytes)})",
        )


def _fewest(costs: Sequence[LayerCost], limit: int) -> int:
    """As many layers as fit go into each part in turn, which makes the fewest parts."""
    count, size = 1, 0
    for cost in costs:
        if size + cost.weight_bytes > limit:
            count, size = count + 1, 0
        size += cost.weight_bytes
    return count


def _balanced(costs: Sequence[LayerCost], count: int, limit: int) -> list[int]:
    bytes_before, seconds_before = [0], [0.0]
    for cost in costs:
        bytes_before.append(bytes_before[-1] + cost.weight_bytes)
        seconds_before.append(seconds_before[-1] + cost.decode_seconds)

    def share(start: int, stop: int) -> float:
        size = bytes_before[stop] - bytes_before[start]
        if size > limit:
            return float("inf")
        seconds = seconds_before[stop] - seconds_before[start]
        return max(size / max(bytes_before[-1], 1), seconds / max(seconds_before[-1], 1e-30))

    return _best_ends(len(costs), count, share)


def _best_ends(layers: int, count: int, share: Callable[[int, int], float]) -> list[int]:
    """Ends of `count` parts whose largest share is smallest; of those, the most even ones."""

    @cache
    def best(start: int, parts: int) -> tuple[float, float, int]:
        if parts == 1:
            whole = share(start, layers)
            return whole, whole**2, layers
        choices = []
        for stop in range(start + 1, layers - parts + 2):
            own, (others, squares, _) = share(start, stop), best(stop, parts - 1)
            choices.append((max(own, others), own**2 + squares, stop))
        return min(choices)

    ends, start = [], 0
    for parts in range(count, 0, -1):
        start = best(start, parts)[2]
        ends.append(start - 1)
    return ends


def planned_parts(
    planned: PlannedModel, device: Device, use: Use, *, count: int | None, max_bytes: int | None
) -> tuple[PlannedPart, ...]:
    """Cuts a model into parts.

    Args:
        planned: The model in its types.
        device: What each part runs on.
        use: Rows, and tokens of a call and of the cache.
        count: Number of parts; None takes as few as keep within `max_bytes`.
        max_bytes: Most bytes of a part's weights; None sets no limit.

    Raises:
        UsageError: The model cannot be cut so.
        ConfigError: The device does not compute in one of the plan's types.
    """
    costs = layer_costs(planned, device, use)
    ends = parts_of_costs(costs, count=count, max_bytes=max_bytes)
    activations = planned.activation_bytes(use.prefill)
    found, start = [], 0
    for index, end in enumerate(ends):
        cost = sum_of_costs(costs[start : end + 1])
        found.append(
            PlannedPart(
                index=index,
                first_layer=start,
                last_layer=end,
                cost=cost,
                device=device.name,
                device_count=_devices(cost, device, use, activations),
            )
        )
        start = end + 1
    return tuple(found)


def _devices(cost: LayerCost, device: Device, use: Use, activations: int) -> int:
    """Devices that hold a part; 1 for a CPU, whose memory a part shares with whatever else runs there."""
    if device.memory is None:
        return 1
    caches = cost.cache_bytes * use.batch * use.max_seq_len
    needed = engine_bytes(cost.weight_bytes) + caches + activations
    return max(1, -(-needed // (device.memory - RESERVED_BYTES)))
