"""The report's plots, as SVG to stand inside the page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from markupsafe import Markup

from r1trt.evaluate.logits import KL_BIN_EDGES, kl_histogram
from r1trt.evaluate.svg import COLORS, new_figure, svg_of_figure

if TYPE_CHECKING:
    from r1trt.evaluate.verdict import Comparison
    from r1trt.validate.report import ValidationReport


def plots_from_report(report: ValidationReport) -> Mapping[str, Markup]:
    """Draw what a report holds: title -> SVG element; no plot of layers where none was compared.

    All text in the plots is our own, so they are safe to embed without escaping.
    """
    comparisons = report.comparisons
    plots = {"KL divergence of each token": _kl_plot(comparisons)}
    with_layers = [comparison for comparison in comparisons if comparison.figures.layers]
    if with_layers:
        plots["Error of each layer's result"] = _layer_plot(with_layers)
    plots["Next-token agreement"] = _agreement_plot(comparisons)
    return plots


def _label(comparison: Comparison) -> str:
    return f"{comparison.tested} against {comparison.reference}"


def _line_style(comparison: Comparison, first: Comparison) -> str:
    """Dashed where the reference is not the earliest stage: such a line often lies upon another."""
    return "-" if comparison.reference == first.reference else "--"


def _kl_plot(comparisons: tuple[Comparison, ...]) -> Markup:
    figure, axes = new_figure()
    # The first and last bins are open; they are drawn as wide as the others.
    width = KL_BIN_EDGES[1] / KL_BIN_EDGES[0]
    edges = [KL_BIN_EDGES[0] / width, *KL_BIN_EDGES, KL_BIN_EDGES[-1] * width]
    for comparison, color in zip(comparisons, COLORS * len(comparisons), strict=False):
        kl_T = comparison.figures.logits.kl_T
        shares = [count / max(len(kl_T), 1) for count in kl_histogram(kl_T)]
        style = _line_style(comparison, comparisons[0])
        axes.stairs(shares, edges, label=_label(comparison), color=color, linewidth=1.4, linestyle=style)
        axes.stairs(shares, edges, color=color, alpha=0.12, fill=True)
    axes.set_xscale("log")
    axes.set_xlabel("KL divergence, nats (the leftmost step holds everything below 1e-9)")
    axes.set_ylabel("share of tokens")
    axes.legend(frameon=False)
    return svg_of_figure(figure)


def _layer_plot(comparisons: list[Comparison]) -> Markup:
    figure, axes = new_figure()
    for comparison, color in zip(comparisons, COLORS * len(comparisons), strict=False):
        errors = sorted(
            (int(match.group()), error.relative_rms)
            for name, error in comparison.figures.layers.items()
            if (match := re.search(r"\d+", name))
        )
        # A logarithmic axis cannot show an exact match.
        visible = [(layer, error) for layer, error in errors if error > 0]
        axes.plot(
            *zip(*visible, strict=True) if visible else ([], []),
            f"o{_line_style(comparison, comparisons[0])}",
            ms=3,
            color=color,
            label=_label(comparison),
        )
    axes.set_yscale("log")
    axes.set_xlabel("layer")
    axes.set_ylabel("relative error (RMS)")
    axes.legend(frameon=False)
    return svg_of_figure(figure)


def _agreement_plot(comparisons: tuple[Comparison, ...]) -> Markup:
    figure, axes = new_figure(height=0.9 + 0.35 * len(comparisons))
    labels = [_label(comparison) for comparison in comparisons]
    shares = [100 * comparison.figures.logits.agreement for comparison in comparisons]
    bars = axes.barh(labels, shares, color=[COLORS[i % len(COLORS)] for i in range(len(labels))], height=0.6)
    axes.bar_label(bars, fmt=" %.2f %%")
    axes.invert_yaxis()
    axes.set_xlim(0, 115)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.grid(visible=False)
    axes.set_xlabel("% of tokens")
    return svg_of_figure(figure)
