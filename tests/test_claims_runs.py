"""The store of finished runs: what stands is not repeated, what failed or is another one runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from claims.row import Options, write_receipts
from claims.runs import Run, RunStore
from claims.tiles import ROW as TILES


def counted(calls: list[int]) -> Callable[[], dict[str, int]]:
    def measure() -> dict[str, int]:
        calls.append(len(calls))
        return {"figure": len(calls)}

    return measure


def run(width: int = 1, seed: int = 0) -> Run:
    return Run(row="row", variant="variant", seed=seed, config={"width": width, "phases": ((1, 2), (3, 4))})


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    calls: list[int] = []
    store = RunStore(directory=tmp_path / "work")
    first, second = (store.record(run(), counted(calls)) for _ in range(2))
    assert len(calls) == 1
    assert first is not None and second is not None
    assert first["result"] == second["result"] == {"figure": 1}
    assert [path.name for path in store.directory.iterdir()] == ["row-variant-0.json"]


@pytest.mark.parametrize("other", [run(width=2), run(seed=1)], ids=["configuration", "seed"])
def test_another_configuration_or_seed_runs(tmp_path: Path, other: Run) -> None:
    calls: list[int] = []
    store = RunStore(directory=tmp_path)
    for each in (run(), other):
        store.record(each, counted(calls))
    assert len(calls) == 2


def test_a_run_that_ends_early_leaves_nothing_and_starts_again(tmp_path: Path) -> None:
    def killed() -> dict[str, int]:
        raise KeyboardInterrupt

    store, calls = RunStore(directory=tmp_path), list[int]()
    with pytest.raises(KeyboardInterrupt):
        store.record(run(), killed)
    assert list(tmp_path.iterdir()) == []
    assert store.record(run(), counted(calls)) is not None


def test_a_report_of_what_has_run_starts_nothing(tmp_path: Path) -> None:
    calls: list[int] = []
    RunStore(directory=tmp_path).record(run(), counted(calls))
    store = RunStore(directory=tmp_path, finished_only=True)
    assert store.record(run(), counted(calls)) is not None
    assert store.record(run(seed=1), counted(calls)) is None
    assert len(calls) == 1


def test_a_row_without_runs_keeps_the_receipts_that_are_there(tmp_path: Path) -> None:
    receipt = tmp_path / "claims-tiles.md"
    receipt.write_text("figures\n")
    options = Options(store=RunStore(directory=tmp_path / "none", finished_only=True))
    assert write_receipts(TILES, options, tmp_path) is None
    assert receipt.read_text() == "figures\n" and list(tmp_path.iterdir()) == [receipt]
