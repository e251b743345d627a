"""Rows of the comparison: what was measured, what was aimed at, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OURS = "r1trt"
# What an aim can speak of.
RATIO, SHARE_OF_DATA_SHEET, SHARE_OF_COPY, MICROSECONDS = (
    "ratio",
    "share_of_data_sheet",
    "share_of_copy",
    "us",
)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a row is meant to reach.

    Attributes:
        measure: `ratio` (a peer's time over ours), `share_of_data_sheet` or `share_of_copy` (the bytes' time
            at the data sheet's bandwidth, or at that of a copy here, over ours), or `us`.
        limit: At least this; at most, for `us`.
        peer: Whom a ratio is to: the fastest of those that were measured.
    """

    measure: str
    limit: float
    peer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.measure not in (RATIO, SHARE_OF_DATA_SHEET, SHARE_OF_COPY, MICROSECONDS):
            raise ValueError(f"an aim for {self.measure!r}")
        if self.limit <= 0 or bool(self.peer) != (self.measure == RATIO):
            raise ValueError(f"an aim for {self.measure} of {self.limit} with peers {self.peer}")

    def __str__(self) -> str:
        """As a table has it."""
        if self.measure == RATIO:
            return f">= {self.limit:g}x {' | '.join(self.peer)}"
        if self.measure == MICROSECONDS:
            return f"<= {self.limit:g} us"
        of = "data sheet" if self.measure == SHARE_OF_DATA_SHEET else "copy"
        return f">= {self.limit:.0%} of {of} bandwidth"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a row must do at least.

    Attributes:
        operations: Multiplications and additions.
        size: Bytes to and from memory.
        fp8: Whether the operands are FP8.
    """

    operations: float = 0.0
    size: float = 0.0
    fp8: bool = False


def judged(aim: Aim, times: dict[str, float], work: Work, peaks: dict[str, float | None]) -> dict[str, Any]:
    """What came of an aim.

    Args:
        aim: The aim.
        times: Median microseconds by contender.
        work: What the row must do.
        peaks: Bytes per second: `data_sheet` and `copy`; None where unknown.

    Returns:
        `aim`, `found` and `met`; or `met` None and `why` it cannot be said.
    """
    entry: dict[str, Any] = {"aim": str(aim), "found": None, "met": None}
    ours = times.get(OURS)
    if ours is None:
        return {**entry, "why": f"{OURS} was not measured"}
    if aim.measure == RATIO:
        measured = [name for name in aim.peer if name in times]
        if not measured:
            return {**entry, "why": f"not measured: {', '.join(aim.peer)}"}
        peer = min(measured, key=lambda name: times[name])
        found = times[peer] / ours
        entry |= {"peer": peer, "not_measured": [name for name in aim.peer if name not in times]}
    elif aim.measure == MICROSECONDS:
        return {**entry, "found": ours, "met": ours <= aim.limit}
    else:
        rate = peaks["data_sheet" if aim.measure == SHARE_OF_DATA_SHEET else "copy"]
        if rate is None:
            return {**entry, "why": "this GPU's bandwidth is not known"}
        found = 1e6 * work.size / rate / ours
    return {**entry, "found": found, "met": found >= aim.limit}


def ratios(times: dict[str, float]) -> dict[str, float]:
    """Every peer's time over ours."""
    if OURS not in times:
        return {}
    return {name: time / times[OURS] for name, time in times.items() if name != OURS}
