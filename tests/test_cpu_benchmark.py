"""The benchmark of `--arch cpu` engines: its order of tasks, its ratios, and a run on a tiny model."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from scripts_under_test import REPOSITORY, run_script
from tiny_checkpoints import write_llama

SCRIPTS = REPOSITORY / "scripts"
NAMES = ("benchmark_cpu", "cpu_report", "cpu_contenders", "llama_build", "machine", "processes")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield {name: importlib.import_module(name) for name in NAMES}
        for name in NAMES:
            sys.modules.pop(name, None)


def test_depths_begin_at_the_longest(scripts: dict[str, ModuleType]) -> None:
    found = scripts["benchmark_cpu"].tasks([8, 32], [1, 4], most=64)
    assert [task[:2] for task in found if task[-1] == 1] == [
        ("prefill", 8), ("prefill", 32), ("decode", 32), ("decode", 8),
    ]  # fmt: skip
    assert [task[1] for task in found if task[0] == "prefill" and task[-1] == 4] == [8]


def test_a_ratio_is_of_one_round(scripts: dict[str, ModuleType]) -> None:
    ratio = scripts["cpu_report"].ratio
    assert ratio("prefill 8 1", [1.0, 2.0, 4.0], [2.0, 4.0, 4.0]) == (1.0, 2.0, 2.0)
    assert ratio("peak", [100.0], [50.0]) == (2.0, 2.0, 2.0)


def test_it_measures_a_tiny_model(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True, seed=4)
    places = ("--work-dir", tmp_path / "work", "--output", tmp_path)
    sizes = ("--lengths", 4, 16, "--batches", 1, 2, "--rounds", 2, "--quality-tokens", 64, "--patience", 0)
    result = run_script(SCRIPTS / "benchmark_cpu.py", checkpoint, "--name", "Tiny", *places, *sizes)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("cpu-engine-tiny-*.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert not document["did_not_run"]
    assert set(document["samples"]) == {"r1trt fp32", "r1trt int8", "r1trt int4"}
    for samples in document["samples"].values():
        assert {len(values) for values in samples.values()} == {2} and len(samples) == 8 + 2
        assert all(value > 0 for values in samples.values() for value in values)
    quality = document["quality"]
    assert quality["r1trt fp32"]["kl_mean"] == 0.0
    assert 0 < quality["r1trt int8"]["kl_mean"] < quality["r1trt int4"]["kl_mean"]
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "| decode at 16 x 2, tokens/s |" in page and "| r1trt int4 |" in page
