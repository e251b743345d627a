"""Plots as SVG that can stand inside a page; all of their text is our own."""

from __future__ import annotations

import io
from typing import Any

from markupsafe import Markup

COLORS = ("#2f6fb5", "#d9822b", "#3a8f5c", "#8a5fb0", "#b5433f")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "r1trt",
    "font.family": "sans-serif",
    "font.size": 9,
}


def new_figure(height: float = 2.9) -> tuple[Any, Any]:
    """A figure and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def svg_of_figure(figure: Any) -> Markup:
    """The figure as an SVG element."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    # Without the XML declaration and document type, which cannot stand inside a page.
    return Markup(text[text.index("<svg") :])
