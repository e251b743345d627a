"""Figures and lists as text."""

from __future__ import annotations

import pytest

from r1trt.text import count_text, duration_text, listing, ranges_text, size_text


@pytest.mark.parametrize(
    ("number", "text"),
    [(999, "999"), (134_515_008, "134.5 million"), (70_553_706_496, "70.55 billion")],
)
def test_counts_are_readable(number: int, text: str) -> None:
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (269_060_552, "269.1 MB"),
        (3_554_000_000, "3.6 GB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


def test_durations() -> None:
    texts = [duration_text(seconds) for seconds in (0.9, 90, 600, 7300, 40 * 3600, 4 * 86400)]
    assert texts == ["1 s", "90 s", "10 min", "2 h", "40 h", "4 days"]


@pytest.mark.parametrize(
    ("count", "limit", "last"),
    [(0, 20, ""), (1, 20, "line 0"), (20, 20, "line 19"), (21, 20, "... and 1 more"), (30, None, "line 29")],
)
def test_listings_end_somewhere(count: int, limit: int | None, last: str) -> None:
    shown = listing([f"line {index}" for index in range(count)], limit=limit).split("\n    ")
    assert shown[0] == "" and shown[-1] == last
    assert len(shown) == 1 + (count if limit is None else min(count, limit) + (count > limit))


def test_ranges() -> None:
    assert ranges_text([0, 3, 4, 5, 9], 9) == "0, 3-5, 9"
    assert ranges_text([0, 2, 4], 2) == "0, 2, and 1 more ranges"
    assert ranges_text([], 2) == ""
