"""Phases out of timed calls: the median over a phase's rounds, of the whole and of every node."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from r1trt.profile.measured import ExecutedNode, MeasuredPhase
from r1trt.profile.requests import Phase
from r1trt.profile.runs import TimedCall

ProfiledCall = tuple[TimedCall, Mapping[str, float]]
"""A call with a profiler, and seconds of the nodes that it ran, by name."""


def phases_of_calls(
    plain: Sequence[TimedCall],
    profiled: Sequence[ProfiledCall],
    layers: Callable[[str], tuple[str, ...]],
) -> dict[Phase, MeasuredPhase]:
    """What was measured of each phase.

    Args:
        plain: Calls with nothing but a clock beside them.
        profiled: The same calls with a profiler.
        layers: Layers of the plan that a node computes, by its name.
    """
    phases = dict.fromkeys(call.phase for call in plain if call.phase is not None)
    return {
        phase: _measured(
            [call for call in plain if call.phase == phase],
            [pair for pair in profiled if pair[0].phase == phase],
            layers,
        )
        for phase in phases
    }


def _measured(
    plain: Sequence[TimedCall], profiled: Sequence[ProfiledCall], layers: Callable[[str], tuple[str, ...]]
) -> MeasuredPhase:
    whole = _median_round((call, call.seconds) for call in plain)
    names = dict.fromkeys(name for _, nodes in profiled for name in nodes)
    seconds = {
        name: _median_round((call, nodes.get(name, 0.0)) for call, nodes in profiled) for name in names
    }
    # What a profiler records takes time of its own, which makes nodes longer than they are.
    share = min(whole / (sum(seconds.values()) or 1.0), 1.0)
    return MeasuredPhase(
        seconds=whole,
        profiled_seconds=_median_round((call, call.seconds) for call, _ in profiled),
        nodes=tuple(
            ExecutedNode(name=name, layers=layers(name), seconds=share * spent)
            for name, spent in seconds.items()
        ),
    )


def _median_round(pairs: Iterable[tuple[TimedCall, float]]) -> float:
    rounds: dict[int, float] = {}
    for call, amount in pairs:
        rounds[call.round] = rounds.get(call.round, 0.0) + amount
    return statistics.median(rounds.values())
