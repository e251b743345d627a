"""The table of predicted and measured times in docs/gpu.md, against its script."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts_under_test import REPOSITORY

from r1trt.plugin_checks.bench.aims import OURS
from r1trt.plugin_checks.bench.predicted.rows import ROWS

SCRIPT = REPOSITORY / "scripts" / "predicted_times.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("predicted_times", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def receipt(gpu: str, day: str, us: float | None) -> dict[str, Any]:
    times = {} if us is None else {OURS: {"us": us}}
    stages = {"time": {"rows": [{"name": ROWS[0].name, "times": times}]}}
    return {"gpu": gpu, "started": f"2027-01-{day}T00:00:00+00:00", "stages": stages}


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    assert script.main(["--check"]) == 0, f"run {SCRIPT.relative_to(REPOSITORY)}"


def test_another_table_is_found_and_written(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "gpu.md"
    document.write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n")
    monkeypatch.setattr(script, "DOCUMENT", document)
    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert all(row.name in text for row in ROWS)
    document.write_text("no place")
    assert script.main([]) == 1


def test_the_newest_receipt_of_an_h200_is_taken(script: ModuleType, tmp_path: Path) -> None:
    assert script.measured(script.newest_receipt(tmp_path)) == {}
    found = [
        receipt("NVIDIA H200", "02", 40.0),
        receipt("NVIDIA H200", "01", 30.0),
        receipt("NVIDIA H100 80GB HBM3", "03", 10.0),
        {**receipt("NVIDIA H200", "04", None), "stages": {}},
    ]
    for index, content in enumerate(found):
        (tmp_path / f"operators_{index}.json").write_text(json.dumps(content))
    assert script.measured(script.newest_receipt(tmp_path)) == {ROWS[0].name: 40.0}


def test_rows_without_a_time_stay_empty(script: ModuleType) -> None:
    for lacking in (receipt("NVIDIA H200", "01", None), None):
        rows = script.table(lacking).splitlines()[4:]
        assert len(rows) == len(ROWS)
        assert all([cell.strip() for cell in row.split("|")][4:6] == ["", ""] for row in rows)


def test_kernels_of_a_row_are_printed(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--row", "latent decode, H=128, B=1,"]) == 0
    printed = capsys.readouterr().out
    assert "cache_write: " in printed and "hopper_latent: " in printed and "B=32" not in printed


def test_a_row_that_is_not_there_is_an_error(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--row", "no such row"]) == 1
    assert "no such row" in capsys.readouterr().err
