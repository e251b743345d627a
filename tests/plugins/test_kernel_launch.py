"""Launches on a GPU, against a CUDA runtime that only takes notes."""

from __future__ import annotations

from pathlib import Path

from harness.compile import probe_output

PROBE = Path(__file__).parent / "abi" / "launch_probe.cpp"
CHECKS = (
    "launched",
    "earlier_errors",  # one that somebody left before is not the launch's own
    "small_shared",
    "static_counts",
    "large_shared",
    "overlap",
    "own_error",
    "refused_shared",
)


def test_launches() -> None:
    assert probe_output(PROBE, None).splitlines() == [f"{check} good" for check in CHECKS]
