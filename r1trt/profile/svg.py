"""Pictures as SVG elements that can stand inside a page, without any library."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

COLORS = (
    *("#2f6fb5", "#d9822b", "#3a8f5c", "#8a5fb0", "#b5433f"),
    *("#5aa7a7", "#b59a2f", "#7a7a7a", "#c46f9d", "#4d5d8a"),
)
_OPEN = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" height="{}" '
    'font-family="sans-serif" font-size="11" role="img">'
)
_BOX = (
    '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}" stroke="white" '
    'stroke-width="0.5"><title>{}</title></rect>'
)
_LABEL = '<text x="{:.1f}" y="{:.1f}" text-anchor="{}" fill="{}" pointer-events="none">{}</text>'
_LINE = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}" stroke-width="{}"/>'
_DOT = (
    '<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" fill="{}" stroke="{}" stroke-width="1.5">'
    "<title>{}</title></circle>"
)


def element(width: int, height: int, parts: Iterable[Markup]) -> Markup:
    """A picture of a size in pixels."""
    return Markup("\n").join([Markup(_OPEN).format(width, height, width, height), *parts, Markup("</svg>")])


def box(x: float, y: float, width: float, height: float, color: str, title: str) -> Markup:
    """A filled rectangle that says what it is where a pointer rests on it."""
    return Markup(_BOX).format(x, y, width, height, color, title)


def label(x: float, y: float, text: str, *, anchor: str = "start", color: str = "#222") -> Markup:
    """A line of text."""
    return Markup(_LABEL).format(x, y, anchor, color, text)


def line(
    first: tuple[float, float], last: tuple[float, float], *, color: str = "#ccc", width: float = 1.0
) -> Markup:
    """A straight line."""
    return Markup(_LINE).format(*first, *last, color, width)


def dot(x: float, y: float, radius: float, color: str, title: str, *, hollow: bool = False) -> Markup:
    """A circle that says what it is where a pointer rests on it."""
    return Markup(_DOT).format(x, y, radius, "white" if hollow else color, color, title)
