"""Every expert as a box: a row a layer, darker for a higher score, one colour for those that stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from r1trt.prune.scores import LayerScores
from r1trt.prune.selection import LayerChoice

_KEPT, _REMOVED, _EMPTY = (31, 95, 168), (214, 120, 24), (246, 246, 246)
_LEFT, _WIDTH, _WIDEST, _ROW, _GAP, _NUMBER = 70, 860, 34, 18, 6, 26


def picture_of_experts(
    choices: Sequence[LayerChoice],
    groups: int,
    values: Callable[[LayerScores], NDArray[np.float64]],
    what: str,
) -> Markup:
    """The picture as an SVG element.

    Args:
        choices: Layer by layer, with equally many experts.
        groups: Equal groups of neighbours, which stand apart.
        values: A layer's numbers, [E]; the darkest box of a row is its largest.
        what: What the numbers are.
    """
    experts = len(choices[0].scores.tokens_E)
    box = min((_WIDTH - _GAP * (groups - 1)) / experts, _WIDEST)
    height = (len(choices) + 2) * (_ROW + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -16 {_LEFT + _WIDTH + 10} {height + 16}" '
        'font-family="sans-serif" font-size="11">'
    ]
    parts += _numbers(experts, box, experts // groups)
    for index, choice in enumerate(choices):
        parts += _row(choice, values(choice.scores), index * (_ROW + 2), box, experts // groups, what)
    parts += _legend(len(choices) * (_ROW + 2) + 6)
    return Markup("\n".join([*parts, "</svg>"]))


def _place(expert: int, box: float, group: int) -> float:
    return _LEFT + expert * box + expert // group * _GAP


def _numbers(experts: int, box: float, group: int) -> list[str]:
    """Numbers of experts above the rows, as many as have room."""
    step = 1 << max(math.ceil(math.log2(_NUMBER / box)), 0)
    return [
        f'<text x="{_place(expert, box, group) + 2:.2f}" y="-4">{expert}</text>'
        for expert in range(0, experts, step)
    ]


def _row(
    choice: LayerChoice, values_E: NDArray[np.float64], y: int, box: float, group: int, what: str
) -> list[str]:
    layer, kept = choice.scores.layer, set(choice.kept)
    largest = float(values_E.max()) or 1.0
    parts = [f'<text x="4" y="{y + 13}">layer {layer}</text>']
    for expert, value in enumerate(values_E):
        x = _place(expert, box, group)
        state, color = ("kept", _KEPT) if expert in kept else ("removed", _REMOVED)
        title = f"layer {layer}, expert {expert}, {state}: {what} {value:.4g}"
        fill = _shade(color, float(value) / largest)
        parts.append(
            f'<rect x="{x:.2f}" y="{y}" width="{max(box - 0.5, 0.5):.2f}" height="{_ROW}" fill="{fill}">'
            f"<title>{title}</title></rect>"
        )
    return parts


def _shade(color: tuple[int, int, int], part: float) -> str:
    """From a tint of the colour, which a score of 0 has too, to the colour itself."""
    strength = 0.18 + 0.82 * part
    mixed = (round(empty + (full - empty) * strength) for full, empty in zip(color, _EMPTY, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _legend(y: int) -> list[str]:
    parts = []
    for index, (name, color) in enumerate((("kept", _KEPT), ("removed", _REMOVED))):
        for step in range(5):
            x, fill = _LEFT + index * 190 + step * 14, _shade(color, step / 4)
            parts.append(f'<rect x="{x}" y="{y}" width="14" height="12" fill="{fill}"/>')
        parts.append(f'<text x="{_LEFT + index * 190 + 76}" y="{y + 10}">{name}, low to high</text>')
    return parts
