"""The rows that train attention: what they ask, and each of them once, reduced, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from claims.recall import IGNORED, RecallTask, recall_batch
from scripts_under_test import REPOSITORY, run_script

ROWS = ("hla-recall", "hla-language", "temperature")


def test_every_question_has_its_answer_before_it() -> None:
    task, length = RecallTask(), 128
    batch = recall_batch(task, 8, length, torch.Generator().manual_seed(0))
    rows, places = (batch.targets != IGNORED).nonzero(as_tuple=True)
    assert len(rows) == 8 * task.pairs(length)
    first = places - batch.distance[rows, places]
    assert torch.equal(batch.ids[rows, first], batch.ids[rows, places])
    assert torch.equal(batch.ids[rows, first + 1], batch.targets[rows, places])
    assert bool((batch.ids[rows, places] < task.keys).all()) and bool(
        (batch.distance[rows, places] > 0).all()
    )
    assert int((batch.ids < task.keys).sum()) == 2 * len(rows)  # every key twice


def test_rows_run_reduced_and_are_not_repeated(tmp_path: Path) -> None:
    options = [item for row in ROWS for item in ("--row", row)]
    options += ["--reduced", "--seeds", "1", "--work-dir", str(tmp_path / "work"), "-o", str(tmp_path)]
    first = run_script(REPOSITORY / "scripts" / "claims", *options)
    assert first.returncode == 0, first.stderr
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    second = run_script(REPOSITORY / "scripts" / "claims", *options, "--finished-only")
    assert second.returncode == 0, second.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()} == runs
    for row in ROWS:
        document = json.loads((tmp_path / f"claims-{row}.json").read_text(encoding="utf-8"))
        assert document["reduced"] and {run["row"] for run in document["runs"]} == {row}
        page = (tmp_path / f"claims-{row}.md").read_text(encoding="utf-8")
        assert "say nothing about the claim" in page and f"claims-{row}.svg" in page
        assert (tmp_path / f"claims-{row}.svg").stat().st_size > 1000
