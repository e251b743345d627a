"""A profile as tables of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from r1trt.cli.output import table_lines
from r1trt.text import flops_text, size_text

if TYPE_CHECKING:
    from r1trt.profile.result import PhaseProfile, Profile
    from r1trt.profile.rows import Row

Column = tuple[str, Callable[["Row", "PhaseProfile"], object]]


def profile_lines(profile: Profile) -> Iterator[str]:
    """The page: conditions, a table a phase, notes."""
    requests, device = profile.requests, profile.device
    layers = f"{profile.architecture}, {profile.num_layers} layers"
    yield f"{profile.model}: {layers}, {profile.precision} on {device.title}"
    yield (
        f"{requests.size} x {requests.longest} prompt tokens, {requests.new_tokens} new ones; times are at "
        f"best, by the roofline at {device.reached_operations:.0%} of its operations and "
        f"{device.reached_bandwidth:.0%} of its bandwidth"
    )
    if profile.measured is not None:
        yield f"measured with {profile.measured.backend} on {profile.measured.where}"
    for phase in profile.phases:
        yield ""
        yield from _phase_lines(profile, phase)
    yield from ("", *(f"note: {note}" for note in profile.notes)) if profile.notes else ()


def _phase_lines(profile: Profile, phase: PhaseProfile) -> Iterator[str]:
    calls = f"{phase.calls} calls" if phase.calls > 1 else "1 call"
    yield f"{phase.name}, {calls}, {phase.tokens} tokens: {'; '.join(_sums(profile, phase))}"
    columns = list(_columns(profile, phase))
    header = (profile.breakdown.replace("_", " "), *(name for name, _ in columns))
    named = _folded(phase.rows) if profile.breakdown == "layer" else ((row.label, row) for row in phase.rows)
    rows = [(label, *(cell(row, phase) for _, cell in columns)) for label, row in named]
    yield from table_lines(header, rows)
    if "latency" not in profile.metrics:
        return
    slowest = phase.bottleneck
    share = _share(slowest, phase) if phase.measured is None else _measured_share(slowest, phase)
    bound = f", bound by {slowest.bound}" if slowest.bound else ""
    yield f"bottleneck: {slowest.label}, {share} of the time{bound}"


def _sums(profile: Profile, phase: PhaseProfile) -> Iterator[str]:
    total = phase.total
    if "latency" in profile.metrics:
        each = f", {_ms(total.seconds / phase.calls)} a call" if phase.calls > 1 else ""
        yield f"{_ms(total.seconds)} ms{each}"
        if phase.measured is not None:
            slower = phase.measured.profiled_seconds / phase.measured.seconds - 1
            yield f"measured {_ms(phase.measured.seconds)} ms, {slower:+.0%} with the profiler"
    if "flops" in profile.metrics:
        yield f"{flops_text(total.flops)}FLOP, {flops_text(total.reference_flops)}FLOP in PyTorch"
    if "memory" in profile.metrics:
        yield f"{size_text(total.cost.moved_bytes)} moved, {size_text(phase.peak_bytes)} at its peak"


def _columns(profile: Profile, phase: PhaseProfile) -> Iterator[Column]:
    """Columns by what was asked for."""
    if "latency" in profile.metrics:
        yield from (
            ("ms", lambda row, _: _ms(row.seconds)),
            ("share", _share),
            ("bound by", lambda row, _: row.bound or "-"),
        )
        if phase.measured is not None:
            yield from (
                ("measured ms", lambda row, _: _ms(row.measured_seconds or 0.0)),
                ("share", _measured_share),
                ("of roofline", lambda row, _: _percent(row.roofline_share)),
            )
    if "flops" in profile.metrics:
        yield from (
            ("FLOP", lambda row, _: flops_text(row.flops)),
            ("in PyTorch", lambda row, _: flops_text(row.reference_flops)),
            ("FLOP/byte", lambda row, _: _intensity(row)),
        )
    if "memory" in profile.metrics:
        yield from (
            ("moved", lambda row, _: size_text(row.cost.moved_bytes)),
            ("weights", lambda row, _: size_text(row.weight_bytes)),
            ("KV cache", lambda row, _: size_text(row.kv_bytes)),
            ("alive", lambda row, _: size_text(row.live_bytes)),
        )


def _folded(rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """Labels and rows; of neighbours that differ in their names alone, one with the names of both ends."""
    runs: list[list[Row]] = []
    for row in rows:
        if runs and _figures(runs[-1][0]) == _figures(row) and row.measured_seconds is None:
            runs[-1].append(row)
        else:
            runs.append([row])
    for run in runs:
        label = run[0].label
        yield (label if len(run) == 1 else f"{label} to {run[-1].name}, each"), run[0]


def _figures(row: Row) -> tuple[object, ...]:
    return row.cost, row.seconds, row.weight_bytes, row.kv_bytes, row.live_bytes, row.reference_macs


def _intensity(row: Row) -> str:
    if row.intensity is None:
        return "-"
    return f"{row.intensity:.3g}" if row.intensity < 1000 else f"{row.intensity:.0f}"


def _ms(seconds: float) -> float | int:
    """Four digits, and all of a large number's."""
    milliseconds = 1000 * seconds
    return round(milliseconds) if milliseconds >= 1000 else float(f"{milliseconds:.4g}")


def _share(row: Row, phase: PhaseProfile) -> str:
    return _percent(row.seconds / phase.total.seconds if phase.total.seconds else None)


def _measured_share(row: Row, phase: PhaseProfile) -> str:
    whole = phase.total.measured_seconds
    return _percent((row.measured_seconds or 0.0) / whole if whole else None)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
