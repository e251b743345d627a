"""The benchmark's page: means over seeds with their spread, by what was quantized and by loss."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from scripts_under_test import REPOSITORY


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "scripts"))
        import benchmark_finetune

        yield benchmark_finetune
        sys.modules.pop("benchmark_finetune")


def row(precision: str, kl: float, recovered: float | None) -> dict[str, Any]:
    def measured(mean: float) -> dict[str, Any]:
        interval = {"mean": mean, "low": mean, "high": mean}
        return {"kl": {**interval, "mean": kl}, "perplexity_increase": interval, "agreement": 0.98}

    return {
        "precision": precision, "loss": "distillation", "steps": 8, "batch": 2, "window": 64, "epochs": 1,
        "text": "package", "learning_rate": 1e-5, "seconds": {"wall": 9, "processor": 4},
        "accuracy": {
            "tokens": 300, "perplexity": 4.0, "calibrated": measured(0.0007), "tuned": measured(0.0003),
            "recovered_kl": 0.25, "recovered_perplexity": recovered,
        },
    }  # fmt: skip


def test_rows_are_means_with_their_spread(benchmark: ModuleType) -> None:
    rows = [row("fp8", 0.001, 0.5), row("fp8", 0.003, -0.1), row("bf16", 0.0, None)]
    document = {
        "model": "tiny", "day": "2026-01-01", "threads": 1, "rows": rows,
        "machine": {"cores": 2, "cpu": "CPU"},
    }  # fmt: skip
    text = benchmark.page(document)
    assert "12 s of processor time" in text and "8 steps of 2 windows of 64 tokens" in text
    first, second = text.splitlines()[-2:]
    assert first.startswith("| FP8 | distillation | 2 | ")
    assert "0.00200 (0.00100 to 0.00300)" in first and "20% (-10% to 50%)" in first
    assert second.startswith("| BF16 | distillation | 1 | ") and second.endswith("|  |  |")
