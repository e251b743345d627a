"""A plan as a picture: a row a decoder layer, a box a layer, coloured by type and as wide as its time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from r1trt.ops.layer_precision import LayerPrecision
from r1trt.precision.plan import PrecisionPlan

_LAYER = re.compile(r"^model\.layers\.(\d+)\.")
_COLORS: Mapping[str, str] = {
    "fp8_e4m3": "#3a8f5c",
    "int8": "#8a5fb0",
    "bf16": "#2f6fb5",
    "fp32": "#d9822b",
    "int64": "#999999",
}
_ROW, _GAP, _LEFT, _WIDTH = 16, 3, 130, 900


@dataclass(frozen=True, kw_only=True)
class Box:
    """One layer.

    Attributes:
        name: Its name in the plan.
        layer: Its types.
        seconds: Modelled time; boxes of a row share its width by it.
    """

    name: str
    layer: LayerPrecision
    seconds: float


def picture_of_plan(plan: PrecisionPlan, seconds: Mapping[str, float]) -> str:
    """The plan as an SVG file.

    Args:
        plan: The plan.
        seconds: Modelled time of each layer.
    """
    rows: dict[str, list[Box]] = {}
    for name, layer in plan.layers.items():
        found = _LAYER.match(name)
        row = f"layer {found[1]}" if found else name
        rows.setdefault(row, []).append(Box(name=name, layer=layer, seconds=seconds.get(name, 0.0)))
    longest = max(sum(box.seconds for box in boxes) for boxes in rows.values()) or 1.0
    height = (len(rows) + 2) * (_ROW + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{height}" '
        'font-family="sans-serif" font-size="11">'
    ]
    for index, (name, boxes) in enumerate(rows.items()):
        parts += _row(name, boxes, index * (_ROW + _GAP) + 4, longest)
    parts += _legend(len(rows) * (_ROW + _GAP) + 10)
    return "\n".join([*parts, "</svg>\n"])


def _row(name: str, boxes: Sequence[Box], y: int, longest: float) -> list[str]:
    parts, x = [f'<text x="4" y="{y + 12}">{escape(name)}</text>'], float(_LEFT)
    for box in boxes:
        width = max(_WIDTH * box.seconds / longest, 1.0)
        color = _COLORS.get(box.layer.weight or box.layer.input, "#8a5fb0")
        title = Markup("<title>{}: {} x {} to {}, {:.2f} us</title>").format(
            box.name, box.layer.input, box.layer.weight or "-", box.layer.output, 1e6 * box.seconds
        )
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW}" fill="{color}" stroke="white" '
            f'stroke-width="0.5">{title}</rect>'
        )
        x += width
    return parts


def _legend(y: int) -> list[str]:
    parts = []
    for index, (name, color) in enumerate(_COLORS.items()):
        x = _LEFT + index * 120
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{color}"/>')
        parts.append(f'<text x="{x + 18}" y="{y + 11}">{name}</text>')
    return parts
