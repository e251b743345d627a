"""The benchmark's page: means and spread over calibration sets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from scripts_under_test import REPOSITORY

from r1trt.prune.accuracy import FIGURES


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "scripts"))
        import benchmark_pruning

        yield benchmark_pruning
        sys.modules.pop("benchmark_pruning")


def row(share: float, removed: list[int], increase: float) -> dict[str, Any]:
    accuracy = {**dict.fromkeys(FIGURES, 1.0), "perplexity_increase": increase, "tokens": 512}
    return {
        "share": share, "criterion": "reap", "removed": {0: removed, 1: removed}, "removed_tokens": 0.2,
        "removed_contribution": 0.1, "accuracy": accuracy,
    }  # fmt: skip


def test_means_and_spread(benchmark: ModuleType) -> None:
    rows = [row(0.25, [1, 2], 0.1), row(0.25, [2, 3], 0.2), row(0.25, [2, 1], 0.6), row(0.5, [1, 2], 0.9)]
    document = {
        "model": "m", "day": "2026-01-01", "seconds": 5, "calibration_tokens": 100, "rows": rows,
        "machine": {"cores": 2, "cpu": "CPU"},
    }  # fmt: skip
    first, second = benchmark.page(document).splitlines()[-2:]
    assert first.startswith("| 25% | reap | +30.0% (+10.0% to +60.0%) | ") and first.endswith("| 50% |")
    assert second.startswith("| 50% | reap | +90.0% (+90.0% to +90.0%) | ") and second.endswith("| 100% |")
