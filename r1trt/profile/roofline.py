"""The roofline of a device, and the rows of a profile under it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from r1trt.estimate.gpus import Device
from r1trt.profile.result import PhaseProfile, Profile
from r1trt.profile.rows import Row
from r1trt.profile.svg import COLORS, dot, element, label, line
from r1trt.text import flops_text

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 940, 420, 70, 40, 24, 250
_LEAST_INTENSITY = 0.1
_DECADES = 4
"""Of operations a second, where no row has any."""

Rows = Sequence[tuple[PhaseProfile, Row]]


class _Scale:
    """Decades of both axes to pixels.

    Args:
        device: Whose roofs have to fit.
        rows: Whose dots have to fit.
    """

    def __init__(self, device: Device, rows: Rows) -> None:
        intensities = [row.intensity for _, row in rows if row.intensity]
        peak = max(map(device.rate, device.operations))
        ridge = peak / device.reachable_bandwidth
        speeds = [speed for _, row in rows for speed, _ in _speeds(row)]
        self.left = math.floor(math.log10(min([_LEAST_INTENSITY, *intensities])))
        self.right = math.ceil(math.log10(2 * max([ridge, *intensities])))
        self.top = math.ceil(math.log10(max([peak, *speeds])))
        self.bottom = min([self.top - _DECADES, *(math.floor(math.log10(speed)) for speed in speeds)])

    def at(self, intensity: float, speed: float) -> tuple[float, float]:
        """Where a number of operations a byte, and of operations a second, is."""
        across = (math.log10(intensity) - self.left) / (self.right - self.left)
        up = (math.log10(speed) - self.bottom) / (self.top - self.bottom)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - _TOP)


def roofline_of_profile(profile: Profile) -> Markup:
    """A picture: operations a second over operations a byte; a dot is hollow where its time is modelled."""
    rows = [(phase, row) for phase in profile.phases for row in phase.rows if row.flops and row.seconds]
    scale = _Scale(profile.device, rows)
    parts = [*_axes(scale), *_roofs(scale, profile.device), *_dots(scale, rows), *_legend(rows)]
    return element(_WIDTH, _HEIGHT, parts)


def _speeds(row: Row) -> Iterator[tuple[float, bool]]:
    """Operations a second, and whether they were measured."""
    yield row.flops / row.seconds, False
    if row.measured_seconds:
        yield row.flops / row.measured_seconds, True


def _axes(scale: _Scale) -> Iterator[Markup]:
    for power in range(scale.left, scale.right + 1):
        x, bottom = scale.at(10.0**power, 10.0**scale.bottom)
        yield line((x, _TOP), (x, bottom))
        yield label(x, bottom + 16, f"{10.0**power:g}", anchor="middle")
    for power in range(scale.bottom, scale.top + 1):
        left, y = scale.at(10.0**scale.left, 10.0**power)
        yield line((left, y), (_WIDTH - _RIGHT, y))
        yield label(left - 6, y + 4, flops_text(10**power), anchor="end")
    yield label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "operations a byte", anchor="middle")
    yield label(4, 12, "operations a second")


def _roofs(scale: _Scale, device: Device) -> Iterator[Markup]:
    """What good kernels reach: a slope of the bandwidth, and a flat roof for every type."""
    bandwidth, right = device.reachable_bandwidth, 10.0**scale.right
    kinds: dict[float, list[str]] = {}
    for kind in device.operations:
        kinds.setdefault(device.rate(kind), []).append(kind)
    peak, left = max(kinds), max(10.0**scale.left, 10.0**scale.bottom / bandwidth)
    ends = scale.at(left, left * bandwidth), scale.at(peak / bandwidth, peak)
    yield line(*ends, color="#444", width=1.5)
    for rate, names in kinds.items():
        start, end = scale.at(rate / bandwidth, rate), scale.at(right, rate)
        yield line(start, end, color="#444", width=1.5)
        yield label(end[0] - 4, end[1] - 4, ", ".join(names), anchor="end")


def _dots(scale: _Scale, rows: Rows) -> Iterator[Markup]:
    colors = _colors(rows)
    for phase, row in rows:
        radius = 3 + 8 * math.sqrt(row.seconds / phase.total.seconds)
        for speed, measured in _speeds(row):
            how = "measured" if measured else "by the roofline"
            title = f"{phase.name}, {row.label}, {how}: {flops_text(round(speed))} a second"
            place = scale.at(row.intensity or _LEAST_INTENSITY, speed)
            yield dot(*place, radius, colors[row.name], title, hollow=not measured)


def _colors(rows: Rows) -> dict[str, str]:
    names = dict.fromkeys(row.name for _, row in rows)
    return {name: COLORS[index % len(COLORS)] for index, name in enumerate(names)}


def _legend(rows: Rows) -> Iterator[Markup]:
    """The first names; every dot says its own where a pointer rests on it."""
    most = (_HEIGHT - _BOTTOM - _TOP) // 16
    for index, (name, color) in enumerate(list(_colors(rows).items())[:most]):
        y = _TOP + 10 + 16 * index
        yield dot(_WIDTH - _RIGHT + 20, y - 4, 5, color, name)
        yield label(_WIDTH - _RIGHT + 32, y, name[:36])
