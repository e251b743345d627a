"""The benchmark of R1 in parts, on a tiny one: parts are planned, and written without their experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fp8_checkpoints import QUANTIZATION
from scripts_under_test import REPOSITORY, run_script

from r1trt.estimate.known_models import KNOWN_MODELS

TINY: dict[str, Any] = {
    **KNOWN_MODELS["r1-671b"],
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 16,
    "quantization_config": QUANTIZATION,
}


def test_parts_are_written_without_their_experts(tmp_path: Path) -> None:
    shape = tmp_path / "config.json"
    shape.write_text(json.dumps(TINY))
    reports = tmp_path / "reports"
    options = ["--shape", shape, "--parts", 2, "--work-dir", tmp_path / "work", "--report-dir", reports]
    ended = run_script(REPOSITORY / "scripts" / "benchmark_r1_parts.py", *options)
    assert ended.returncode == 0, ended.stderr
    (figures,) = reports.glob("*.json")
    report = json.loads(figures.read_text())
    planned = report["planned"]
    assert [part["layers"] for part in planned] == [each["layers"] for each in report["written"]]
    for part, written in zip(planned, report["written"], strict=True):
        assert written["input_bytes"] == part["expert_bytes"]
        assert written["constant_bytes"] < part["weight_bytes"] - part["expert_bytes"] + 100_000
    # Gate and up as one stack, and down, each with block scales; three weights an expert.
    experts = TINY["n_routed_experts"]
    assert sum(each["inputs"] for each in report["written"]) == 2 * 4
    assert sum(each["tensors"] for each in report["written"]) >= 2 * experts * 3 * 2
    assert "experts as inputs" in figures.with_suffix(".md").read_text()
