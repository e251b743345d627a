"""The parts of a model as `r1trt build` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from r1trt.cli.output import table_lines
from r1trt.text import size_text

if TYPE_CHECKING:
    from r1trt.parts.plan import PlannedPart

_HEADER = (
    "part",
    "layers",
    "weights",
    "experts of them",
    "cache a token",
    "prefill ms",
    "decode ms",
    "devices",
)


def part_lines(parts: Sequence[PlannedPart]) -> list[str]:
    """A table of parts; times are modelled, of one row."""
    return table_lines(_HEADER, [_row(part) for part in parts])


def parts_json(parts: Sequence[PlannedPart]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "directory": part.directory,
            "layers": [part.first_layer, part.last_layer],
            **asdict(part.cost),
            "device": part.device,
            "device_count": part.device_count,
        }
        for part in parts
    ]


def _row(part: PlannedPart) -> tuple[object, ...]:
    cost = part.cost
    return (
        part.index,
        f"{part.first_layer}-{part.last_layer}",
        size_text(cost.weight_bytes),
        size_text(cost.expert_bytes),
        size_text(cost.cache_bytes),
        round(1000 * cost.prefill_seconds, 2),
        round(1000 * cost.decode_seconds, 2),
        f"{part.device_count} x {part.device}",
    )
