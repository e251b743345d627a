"""Figures as a user reads them."""

from __future__ import annotations


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


def count_text(number: int) -> str:
    """A count with a unit: `7.616 billion`."""
    for limit, unit in ((10**9, "billion"), (10**6, "million")):
        if number >= limit:
            return f"{number / limit:.4g} {unit}"
    return str(number)
