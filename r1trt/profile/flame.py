"""Where the time goes, as a flame: a phase below, its kinds of layers on it, on each of these its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from markupsafe import Markup

from r1trt.profile.result import PhaseProfile
from r1trt.profile.rows import Row
from r1trt.profile.svg import COLORS, box, element, label

_WIDTH, _ROW, _GAP, _LEVELS = 940, 24, 2, 3
_LETTER = 6.4
"""Width of a letter, roughly: text that does not fit its box is left out."""
_THINNEST = 0.2

Seconds = Callable[[Row], float]


def flame_of_phase(phase: PhaseProfile, *, measured: bool) -> Markup:
    """A picture of one phase.

    Args:
        phase: A phase.
        measured: Widths are measured times, rather than those of the roofline.
    """

    def seconds(row: Row) -> float:
        return (row.measured_seconds or 0.0) if measured else row.seconds

    whole = seconds(phase.total) or 1.0
    return element(_WIDTH, _LEVELS * (_ROW + _GAP), list(_boxes(phase, seconds, whole)))


def _boxes(phase: PhaseProfile, seconds: Seconds, whole: float) -> Iterator[Markup]:
    """The lowest box is the phase; of what stands on it the largest comes first."""
    yield from _box(0.0, 2, whole, whole, "#555555", phase.name)
    groups = [(sum(map(seconds, rows)), name, rows) for name, rows in phase.parts_by_layer_type.items()]
    at = 0.0
    for index, (total, name, rows) in enumerate(sorted(groups, key=lambda group: -group[0])):
        color = COLORS[index % len(COLORS)]
        yield from _box(at, 1, total, whole, color, name)
        yield from _parts(at, sorted(rows, key=lambda row: -seconds(row)), seconds, whole, color)
        at += total


def _parts(at: float, rows: Sequence[Row], seconds: Seconds, whole: float, color: str) -> Iterator[Markup]:
    for row in rows:
        yield from _box(at, 0, seconds(row), whole, color, row.label)
        at += seconds(row)


def _box(at: float, level: int, seconds: float, whole: float, color: str, name: str) -> Iterator[Markup]:
    x, y, width = _WIDTH * at / whole, level * (_ROW + _GAP), _WIDTH * seconds / whole
    if width < _THINNEST:
        return
    yield box(x, y, width, _ROW, color, f"{name}: {1e3 * seconds:.4g} ms, {seconds / whole:.1%}")
    short = name.rpartition(".")[2]
    if _LETTER * len(short) < width - 8:
        yield label(x + 4, y + _ROW - 8, short, color="#fff")
