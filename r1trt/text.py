"""Figures and lists as a user reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby


def listing(lines: Sequence[str], limit: int | None = 20) -> str:
    """Findings below each other, as an error lists them: each on a line of its own, behind the key's.

    Args:
        lines: The findings.
        limit: Most lines that are shown; the rest is counted. None shows all.
    """
    shown = list(lines[:limit])
    if len(shown) < len(lines):
        shown.append(f"... and {len(lines) - len(shown)} more")
    return "\n    ".join(["", *shown])


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbours among ascending numbers, each run by its first and its last."""
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        own = [number for _, number in run]
        yield own[0], own[-1]


def ranges_text(numbers: Sequence[int], limit: int) -> str:
    """Ascending numbers, neighbours joined: `0, 3-5, 9`.

    Args:
        numbers: The numbers.
        limit: Most runs that are shown; the rest is counted.
    """
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs(numbers)]
    more = f", and {len(texts) - limit} more ranges" if len(texts) > limit else ""
    return f"{', '.join(texts[:limit])}{more}"


def size_text(size: int) -> str:
    """A number of bytes with a decimal unit, as file managers print it: `269.1 MB`."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 1000 or unit == "TB":
            break
    return f"{value:.1f} {unit}"


def flops_text(operations: int) -> str:
    """A number of floating-point operations with a decimal unit: `572.1 T`."""
    if operations < 1000:
        return str(operations)
    value = float(operations)
    for unit in ("k", "M", "G", "T", "P", "E"):
        value /= 1000
        if value < 1000 or unit == "E":
            break
    return f"{value:.4g} {unit}"


def count_text(number: int) -> str:
    """A count with a unit: `7.616 billion`."""
    for limit, unit in ((10**9, "billion"), (10**6, "million")):
        if number >= limit:
            return f"{number / limit:.4g} {unit}"
    return str(number)


def duration_text(seconds: float) -> str:
    """A duration in its largest unit, as an estimate is read: `12 s`, `3 min`, `17 h`, `4 days`."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
