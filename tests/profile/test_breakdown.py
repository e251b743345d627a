"""Rows of every breakdown: they add up to the whole, which is what the estimate says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from tiny_checkpoints import write_deepseek, write_llama, write_r1_asa

from r1trt.arch import BuildPrecision
from r1trt.estimate.gpus import DEVICES
from r1trt.estimate.planned import planned_model
from r1trt.estimate.source import sized_model
from r1trt.estimate.times import seconds_of_call
from r1trt.ops.cost import CallSize
from r1trt.profile.options import BREAKDOWNS, METRICS, Breakdown
from r1trt.profile.profile import ProfileConfig, profile_model
from r1trt.profile.result import Profile

REQUESTS = {"batch": 4, "prompt_tokens": 100, "new_tokens": 5}


def profile(
    tmp_path: Path, model: str, breakdown: Breakdown = "layer_type", device: str = "h100", **options: object
) -> Profile:
    path = tmp_path / "requests.json"
    path.write_text(json.dumps(REQUESTS))
    return profile_model(
        ProfileConfig(model=model, input=path, breakdown=breakdown, device=device, **options)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("breakdown", BREAKDOWNS)
@pytest.mark.parametrize("model", ["r1-70b", "r1-671b", "v2-lite", "smollm2-135m"])
def test_rows_add_up(model: str, breakdown: Breakdown, tmp_path: Path) -> None:
    for phase in profile(tmp_path, model, breakdown).phases:
        for name in ("flops", "reference_flops", "kv_bytes"):
            assert sum(getattr(row, name) for row in phase.rows) == getattr(phase.total, name), name
        moved = sum(row.cost.moved_bytes for row in phase.rows)
        assert moved == phase.total.cost.moved_bytes
        assert sum(row.seconds for row in phase.rows) == pytest.approx(phase.total.seconds)
        # Constants that no layer reads, such as shapes, are in no row.
        weights = sum(row.weight_bytes for row in phase.rows)
        assert weights == pytest.approx(phase.total.weight_bytes, rel=1e-6)
        assert len({row.name for row in phase.rows}) == len(phase.rows)


@pytest.mark.parametrize(
    ("model", "device", "precision"),
    [("r1-70b", "h100", "bf16"), ("r1-671b", "h200", "fp8"), ("smollm2-135m", "cpu", "int8")],
)
def test_totals_are_those_of_the_estimate(
    model: str, device: str, precision: BuildPrecision, tmp_path: Path
) -> None:
    found = profile(tmp_path, model, device=device, precision=precision)
    planned = planned_model(sized_model(model), DEVICES[device].arch, precision, 104)
    prefill, decode = found.phases
    call = CallSize(batch=4, tokens=100)
    assert prefill.total.seconds == pytest.approx(seconds_of_call(planned, call, DEVICES[device]))
    steps = [CallSize(batch=4, tokens=1, past=100 + index) for index in range(4)]
    whole = sum(seconds_of_call(planned, step, DEVICES[device]) for step in steps)
    assert decode.total.seconds == pytest.approx(whole)
    assert prefill.total.weight_bytes == planned.bytes
    assert prefill.total.kv_bytes == planned.kv_cache.bytes(4, 104)
    assert prefill.peak_bytes > planned.bytes + planned.kv_cache.bytes(4, 104)


def test_what_bounds_a_row(tmp_path: Path) -> None:
    prefill, decode = profile(tmp_path, "r1-70b").phases
    assert prefill.bottleneck.name == decode.bottleneck.name == "dense mlp"
    assert prefill.bottleneck.bound == "compute" and decode.bottleneck.bound == "memory"
    bound = {row.name: row.bound for row in prefill.rows}
    assert bound["norm"] == bound["residual"] == "memory"


def test_rows_are_called_what_they_are(tmp_path: Path) -> None:
    def names(breakdown: Breakdown, model: Path) -> set[str]:
        return {row.name for row in profile(tmp_path, str(model), breakdown, device="cpu").phases[0].rows}

    model = write_deepseek(tmp_path / "v3")
    assert names("layer_type", model) == {
        *("embedding", "attention", "dense mlp", "moe", "norm", "residual", "head")
    }
    assert names("layer", model) == {"embedding", "layer 0", "layer 1", "norm", "head"}
    assert {"R1HLAAttention", "R1DynamicMoE", "R1HeadMatMul"} < names("operator", model)
    parts = {"mlp.moe: router", "mlp.moe: experts", "mlp.moe: shared expert", "self_attn.q_absorb", "lm_head"}
    assert parts < names("part", model)
    branches = {"self_attn.attention: full branch", "self_attn.attention: block branch", "self_attn.lam_gate"}
    assert branches < names("part", write_r1_asa(tmp_path / "asa"))


def test_experts_hold_their_weights(tmp_path: Path) -> None:
    rows = {row.name: row for row in profile(tmp_path, "r1-671b", "part").phases[0].rows}
    layers, hidden, width = 58, 7168, 2048
    # They stay as published: FP8, and an FP32 scale for each block, the shared expert's among them.
    expert = 3 * hidden * width
    scales = 4 * 257 * expert // 128**2
    assert rows["mlp.moe: experts"].weight_bytes == layers * (256 * expert + scales)
    assert rows["mlp.moe: shared expert"].weight_bytes == layers * expert
    assert rows["mlp.moe: router"].weight_bytes == 4 * layers * 256 * (hidden + 1)
    assert rows["self_attn.attention"].kv_bytes == 61 * 4 * 104 * 576 * 2


def test_values_that_are_alive_by_hand(tmp_path: Path) -> None:
    """Of a Llama of 64 wide in FP32: beside the stream, the widest layers' inputs and results."""
    found = profile(tmp_path, str(write_llama(tmp_path / "model")), "part", device="cpu").phases[0]
    tokens, lengths = 4 * 100, 8 * 2 * 4
    alive = {row.name: row.live_bytes for row in found.rows}
    assert alive["self_attn.o_proj"] == 4 * tokens * (64 + 64 + 64)  # stream, heads, result
    assert (
        alive["self_attn.v_proj"] == 4 * tokens * (64 + 64 + 64 + 32 + 32) + lengths
    )  # stream, norm, q, k, v
    assert alive["mlp.act"] == 4 * tokens * (64 + 3 * 96)
    assert alive["mlp.up_proj"] == 4 * tokens * (64 + 64 + 2 * 96)
    assert alive["lm_head"] == 4 * tokens * (64 + 320)


def test_metrics_are_what_is_told(tmp_path: Path) -> None:
    keys = {"latency": "seconds", "flops": "reference_flops", "memory": "kv_bytes"}
    for metric in METRICS:
        found = profile(tmp_path, "qwen3-8b", metrics=(metric,)).to_json()
        row = found["phases"][0]["rows"][0]
        assert {name for name, key in keys.items() if key in row} == {metric}
        assert found["metrics"] == [metric]
    assert set(METRICS) == set(keys) and get_args(Breakdown) == BREAKDOWNS


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    (note,) = profile(tmp_path, "r1-70b").notes
    assert "do not fit into the 80.0 GB of one h100" in note
    assert profile(tmp_path, "smollm2-135m").notes == ()
    asa = str(write_r1_asa(tmp_path / "asa", adaptive_threshold=0.8))
    assert len(profile(tmp_path, asa).notes) == 2
