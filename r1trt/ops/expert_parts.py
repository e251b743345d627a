"""Experts in parts: R1DynamicMoE takes its stacks in several tensors along the experts.

TensorRT has failed on tensors of 2^31 elements and more, and the stacked gate and up projections of
DeepSeek-R1 have 7.5e9. Part 0 stands at the operator's own inputs; the inputs of the others follow behind.
Legend: E experts, P parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAX_ELEMENTS = 2**31 - 1
"""Elements that a stack may have."""
PARTED = ("w_gate_up", "w_down", "gate_up_scale", "down_scale")
"""Inputs that come once a part, in the order in which those of parts 1, 2, ... are appended."""


@dataclass(frozen=True, kw_only=True)
class ExpertPart:
    """Experts `first` to `stop` - 1 of a layer, in the tensors of part `index`."""

    index: int
    first: int
    count: int

    @property
    def stop(self) -> int:
        """The first expert behind this part."""
        return self.first + self.count

    def input(self, name: str) -> str:
        """Name of the operator's input that is `name` in this part."""
        return f"{name}.{self.index}" if self.index else name


def expert_parts(experts: int, parts: int) -> tuple[ExpertPart, ...]:
    """Equal parts, the first E mod P of them one expert larger.

    Raises:
        ValueError: There are no experts for one of the parts.
    """
    if not 1 <= parts <= experts:
        raise ValueError(f"{experts} experts cannot be in {parts} parts")
    return tuple(_parts(experts, parts))


def _parts(experts: int, parts: int) -> Iterator[ExpertPart]:
    first = 0
    for index in range(parts):
        count = experts // parts + (index < experts % parts)
        yield ExpertPart(index=index, first=first, count=count)
        first += count


def fewest_parts(experts: int, elements: int, limit: int = MAX_ELEMENTS) -> int:
    """The fewest parts whose stacks have at most `limit` elements, at `elements` an expert."""
    return -(-experts // max(limit // elements, 1))


def part_inputs(parts: int) -> tuple[str, ...]:
    """Names of the inputs behind the operator's own, those of the parts 1 to P - 1."""
    return tuple(f"{name}.{index}" for index in range(1, parts) for name in PARTED)
