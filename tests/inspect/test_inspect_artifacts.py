"""What is shown of a build's directory: its files' state, its network, and the result of its validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typical_manifests import BUILD, REPOSITORY

from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.manifest import write_manifest
from r1trt.artifacts.validation import ValidationSummary, write_validation
from r1trt.inspect.path import summary_of_path

SUMMARY = ValidationSummary(
    passed=True,
    created="2026-11-26",
    reference="checkpoint",
    tested="typed",
    tokens=2048,
    kl_mean=0.0375,
    agreement=0.8877,
    perplexity_reference=40.47,
    perplexity_tested=41.55,
    perplexity_increase=None,
    not_executed={},
)
LAYER = {"op": "R1Linear", "asked": {"input": "bf16"}, "found": {"input": "bf16"}, "verdict": "obeyed"}


@pytest.fixture
def build(tmp_path: Path) -> Path:
    write_manifest(tmp_path, BUILD)
    return tmp_path


def write_layers(build: Path, layers: Any) -> None:
    content = {"layers": layers, "network_layers": 9, "executed": {}, "summary": {"obeyed": 2}}
    (build / "layers.json").write_text(json.dumps(content))


def test_files_are_compared_with_the_manifest(build: Path) -> None:
    (build / "typed.onnx").write_bytes(b"x")
    (table,) = summary_of_path(build).tables
    states = {row[0]: row[2] for row in table.rows}
    assert states == {"engine.sm89.plan": "missing", "typed.onnx": "1 bytes: damaged"}
    assert summary_of_path(build).facts["status"] == "DAMAGED: engine.sm89.plan, typed.onnx"


def test_equal_layers_of_the_network_are_one_row(build: Path) -> None:
    write_layers(build, [{**LAYER, "name": f"model.layers.{index}.mlp.down_proj"} for index in range(2)])
    rows = summary_of_path(build).tables[-1].rows
    assert rows == [("model.layers.*.mlp.down_proj", "input bf16", "input bf16", "obeyed", "-", 2)]


@pytest.mark.parametrize("layers", [None, [1], [{**LAYER, "name": 5}], [{"name": "x"}], {}], ids=str)
def test_a_damaged_report_of_the_network_is_refused(build: Path, layers: Any) -> None:
    write_layers(build, layers)
    with pytest.raises(ArtifactError, match="layers") as caught:
        summary_of_path(build)
    assert caught.value.details["where"] == str(build / "layers.json")


def test_the_validation_beside_it_is_shown(build: Path) -> None:
    assert summary_of_path(build).facts["validation"] == "none yet"
    write_validation(build, SUMMARY, {}, "<html>")
    facts = summary_of_path(build).facts
    assert (facts["validation"], facts["KL divergence"]) == ("passed", "0.0375")
    assert facts["perplexity"] == "41.55 (not a finite number)"
    write_manifest(build, {**BUILD, "precision": "bf16"})
    assert "validate again" in summary_of_path(build).facts["validation"]
    (build / "validation.json").write_text('{"schema": 1, "passed": true}')
    assert "another version" in summary_of_path(build).facts["validation"]


def test_a_repository_lists_its_files(tmp_path: Path) -> None:
    write_manifest(tmp_path, REPOSITORY)
    summary = summary_of_path(tmp_path)
    assert summary.facts["backend"] == "onnxruntime" and summary.facts["compute capability"] == "-"
    assert list(summary.tables[0].rows) == [("SmolLM2/1/engine/cpu.onnx", 233364), ("README.md", 4711)]
