"""The rows that measure or model what exists: each of them once, reduced, as a user runs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from claims.adaptive_k import _k_of_loss
from claims.equal_loss import ASA, WIDTHS, equal_width
from claims.moe_schedule import schedule, scheduler
from claims.recomputation import SMALL, step_bytes
from claims.tiles import OBJECTS, _unsorted
from scripts_under_test import REPOSITORY, run_script

from r1trt.config import MoeConfig

FILES = {
    "latency": (),
    "precision-schedule": (),
    "recomputation": ("recomputation-measured-4x128-batch4-keep-all-0.json",),
    "tiles": ("tiles-adaptive-128-0.json",),
    "adaptive-k": ("adaptive-k-fixed-1-0.json", "adaptive-k-top-p-0.5-0.json"),
    "equal-loss": ("equal-loss-r1-asa-0.json",),
}


@pytest.mark.parametrize("row", FILES)
def test_a_row_runs_reduced(row: str, tmp_path: Path) -> None:
    work, output = tmp_path / "work", tmp_path / "receipts"
    options = ["--row", row, "--reduced", "--seeds", "1", "--work-dir", work, "-o", output]
    result = run_script(REPOSITORY / "scripts" / "claims", *options)
    assert result.returncode == 0, result.stderr
    document = json.loads((output / f"claims-{row}.json").read_text(encoding="utf-8"))
    assert document["reduced"]
    assert (output / f"claims-{row}.svg").stat().st_size > 1000
    assert "|---" in (output / f"claims-{row}.md").read_text(encoding="utf-8")
    assert all((work / name).exists() for name in FILES[row])


@pytest.mark.parametrize("kept", ["all", "article", "none"])
def test_counted_bytes_are_those_of_a_step_that_runs(kept: str) -> None:
    step = replace(SMALL[0], num_layers=3, kept=kept)
    assert step_bytes(step) == step_bytes(replace(step, fake=True))


def test_the_kernels_scheduler_fills_tiles_as_counted() -> None:
    config = MoeConfig(num_experts=8, expert_width=16, top_k=2)
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(100, 64, generator=generator).bfloat16().float()
    weight_ED = torch.randn(8, 64, generator=generator)
    expected = (x_TD @ weight_ED.T).topk(2).indices
    for tile_rows in (16, 64, 128):
        found = schedule(scheduler(OBJECTS), config, weight_ED, x_TD, tile_rows)
        counts = np.bincount(found.expert_TK.ravel(), minlength=8)
        assert np.array_equal(found.expert_TK, expected)
        assert found.tiles == sum(-(-count // tile_rows) for count in counts)
        assert np.array_equal(np.sort(found.row_TK.ravel()), np.arange(200))
        assert found.utilization == pytest.approx(200 / (found.tiles * tile_rows))


def test_a_tile_in_order_of_arrival_is_computed_once_an_expert() -> None:
    experts_TK = np.array([[0, 1], [0, -1], [1, 0], [2, 1]])
    # Pairs 0 1 0 | 1 0 2 | 1: two, three and one expert.
    assert _unsorted(experts_TK, 3) == (2 + 3 + 1) * 3


@pytest.mark.parametrize(
    ("loss", "expected"), [(2.5, 1.5), (2.0, 2.0), (1.95, 2.5), (1.0, None), (3.5, None)]
)
def test_fixed_k_of_a_loss(loss: float, expected: float | None) -> None:
    found = _k_of_loss([1, 2, 3], [3.0, 2.0, 1.9], loss)
    assert found is expected or found == pytest.approx(expected)


@pytest.mark.parametrize(("loss", "expected"), [(2.0, 192), (1.95, 272), (1.0, None), (3.5, None)])
def test_width_of_equal_loss(loss: float, expected: int | None) -> None:
    losses = dict(zip(WIDTHS, (2.2, 2.0, 1.9, 1.85), strict=True))
    bits = {f"dense-{width}": [mean - 0.1, mean + 0.1] for width, mean in losses.items()}
    assert equal_width({**bits, ASA: [loss]}) == expected
