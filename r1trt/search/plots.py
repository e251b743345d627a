"""The page's plots, as SVG to stand inside it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from markupsafe import Markup

from r1trt.evaluate.svg import COLORS, new_figure, svg_of_figure

if TYPE_CHECKING:
    from r1trt.search.result import SearchResult

STYLES, MARKERS = ("-", "--", ":"), ("s", "^", "D", "v")
_LAYER = re.compile(r"^model\.layers\.(\d+)\.(.*)$")


def front_plot(result: SearchResult) -> Markup:
    """Modelled time over predicted damage: the front, and the plans that were run."""
    figure, axes = new_figure()
    front = [(point.predicted, 1e3 * point.seconds) for point in result.front]
    axes.plot(*zip(*front, strict=True), "o-", ms=3, color=COLORS[0], label="front, predicted")
    for index, point in enumerate((result.chosen, *result.points)):
        measured = point.final or point.searched
        if measured is not None:
            color, marker = COLORS[index % len(COLORS)], MARKERS[index // len(COLORS) % len(MARKERS)]
            axes.plot(measured.kl.mean, 1e3 * point.seconds, marker, ms=5, color=color, label=point.name)
    axes.set_xlabel("KL divergence of the next token, nats")
    axes.set_ylabel("modelled time, ms")
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg_of_figure(figure)


def damage_plot(result: SearchResult) -> Markup:
    """Each group's damage by its layer, one line a kind of group and choice."""
    figure, axes = new_figure(height=4.2)
    lines: dict[str, list[tuple[int, float]]] = {}
    for group, kinds in result.damages.items():
        found = _LAYER.match(group)
        for kind, damage in kinds.items():
            if found and damage.kl > 0:
                lines.setdefault(f"{found[2]}, {kind}", []).append((int(found[1]), damage.kl))
    for index, name in enumerate(sorted(lines)):
        color, style = COLORS[index % len(COLORS)], STYLES[index // len(COLORS) % len(STYLES)]
        axes.plot(
            *zip(*lines[name], strict=True), style, marker="o", ms=2, linewidth=0.9, color=color, label=name
        )
    axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("layer")
    axes.set_ylabel("KL of this choice alone, nats")
    axes.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg_of_figure(figure)
