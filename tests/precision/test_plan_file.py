"""Plans as YAML: what is written reads back, and every fault of a file is reported at once with its line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from r1trt.errors import PlanError
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.precision.plan import PrecisionPlan, Thresholds
from r1trt.precision.plan_file import load_plan, plan_from_yaml, save_plan, yaml_from_plan
from r1trt.precision.scales_file import short_float

THRESHOLDS = Thresholds(
    kl_max=0.1, perplexity_increase_max=0.05, agreement_min=0.85, logits_max_relative_error=0.1
)
LAYERS = {
    "model.layers.0.self_attn.q_proj": LayerPrecision(
        op="R1Linear",
        input="fp8_e4m3",
        weight="fp8_e4m3",
        output="bf16",
        input_scale=short_float(1e-5 / 3),
        weight_scale=(short_float(0.1), short_float(2 / 7)),
        weight_axis=0,
        reason="matrix product",
    ),
    "model.layers.0.mlp.moe": LayerPrecision(
        op="R1DynamicMoE",
        input="fp8_e4m3",
        weight="fp8_e4m3",
        output="bf16",
        input_scale=0.5,
        weight_scale=(0.25, 0.125),
        weight_axis=0,
        mid_scale=0.75,
        down_scale=(0.5, 0.25),
        shared_weight="fp8_e4m3",
        internals="router fp32",
        reason="experts: on FP8",
    ),
    "model.norm": LayerPrecision(op="R1RMSNorm", input="bf16", weight="fp32", output="bf16", reason="FP32"),
}
PLAN = PrecisionPlan(
    model_hash="ab" * 32,
    arch="ada",
    precision="fp8",
    builder={"tensorrt_rtx": "1.7.1.116"},
    thresholds=THRESHOLDS,
    calibration={"method": "amax", "tokens": 8192},
    layers=LAYERS,
)
TEXT = yaml_from_plan(PLAN)


def test_a_plan_reads_back_as_it_was(tmp_path: Path) -> None:
    save_plan(PLAN, tmp_path / "precision.yaml")
    assert load_plan(tmp_path / "precision.yaml") == PLAN


def test_layers_keep_their_order() -> None:
    assert list(plan_from_yaml(TEXT).layers) == list(LAYERS)


@pytest.mark.parametrize("seed", range(5))
def test_written_scales_are_the_same_fp32_numbers(seed: int) -> None:
    scales = np.exp(np.random.default_rng(seed).uniform(-30, 5, 100)).astype(np.float32)
    assert [np.float32(short_float(scale)) for scale in scales] == list(scales)


Q = "model.layers.0.self_attn.q_proj"
BAD = {
    "unknown key of a layer": ("    input_scale: 3", "    imput_scale: 3", "unknown key 'imput_scale'"),
    "unknown key of the header": ("arch: ada", "arch: ada\narhc: ada", "unknown key 'arhc'"),
    "unknown threshold": ("  kl_max: 0.1", "  kl_max: 0.1\n  kl_mux: 1", "unknown key 'kl_mux'"),
    "missing threshold": ("  kl_max: 0.1\n", "", "missing kl_max"),
    "unknown type": ("    output: bf16\n    input_scale: 3", "    output: fp4\n    input_scale: 3", "'fp4'"),
    "unknown operator": ("op: R1Linear", "op: Conv", "'Conv'"),
    "missing reason": ("    reason: FP32\n", "", "missing reason"),
    "negative scale": ("    mid_scale: 0.75", "    mid_scale: -0.75", "-0.75"),
    "NaN scale": ("    mid_scale: 0.75", "    mid_scale: .nan", "nan"),
    "infinite scale": ("    mid_scale: 0.75", "    mid_scale: .inf", "inf"),
    "zero scale": ("    mid_scale: 0.75", "    mid_scale: 0", "above 0"),
    "scale below FP32": ("    mid_scale: 0.75", "    mid_scale: 1.0e-60", "above 0"),
    "text for a scale": ("    mid_scale: 0.75", "    mid_scale: large", "'large'"),
    "truth for a scale": ("    mid_scale: 0.75", "    mid_scale: true", "True"),
    "blocked weight scales": ("[0.25, 0.125]", "[[0.25], [0.125]]", "blocked"),
    "BF16 scales": ("    mid_scale: 0.75", "    mid_scale: 0.75\n    scale_type: bf16", "scale_type"),
    "scales without an axis": ("    weight_axis: 0\n    reason", "    reason", "weight_axis"),
    "scales along columns": ("    weight_axis: 0\n    reason", "    weight_axis: 1\n    reason", "axis 0"),
    "FP8 input, BF16 weight": (
        "    weight: fp8_e4m3\n    output: bf16\n    input_scale: 3",
        "    weight: bf16\n    output: bf16\n    input_scale: 3",
        "a product of codes has one type for both",
    ),
    "FP8 norm": ("    weight: fp32", "    weight: fp8_e4m3", "weight is fp8_e4m3"),
    "unknown precision": ("precision: fp8", "precision: int2", "int2"),
    "another schema": ("schema: 1", "schema: 9", "schema is 9"),
    "agreement above 1": ("agreement_min: 0.85", "agreement_min: 85", "agreement_min"),
    "repeated layer": ("  model.norm:", f"  {Q}:", "repeats keys"),
    "not YAML": ("schema: 1", "schema: [1", "not YAML"),
    "a Python object": ("arch: ada", "arch: !!python/object/apply:os.system [true]", "not YAML"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_plan_is_refused_with_its_line(case: str) -> None:
    old, new, expected = BAD[case]
    assert TEXT.count(old), f"the case '{case}' does not touch the text"
    with pytest.raises(PlanError) as caught:
        plan_from_yaml(TEXT.replace(old, new, 1))
    assert expected in str(caught.value)
    assert "line" in str(caught.value)


def test_all_faults_are_listed_at_once() -> None:
    text = TEXT.replace("mid_scale: 0.75", "mid_scale: -1").replace("output: bf16", "output: fp4")
    line = next(n for n, row in enumerate(text.splitlines(), start=1) if "mid_scale" in row)
    with pytest.raises(PlanError) as caught:
        plan_from_yaml(text)
    assert str(caught.value).count("'fp4'") == 3
    assert f"line {line}: " in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "schema: 1\n"])
def test_something_else_than_a_plan(text: str) -> None:
    with pytest.raises(PlanError):
        plan_from_yaml(text)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        load_plan(tmp_path / "no.yaml")


HOSTILE = {
    "deep nesting": "a: " + "[" * 100_000,
    "aliases that double": "a0: &a0 {k: 1}\na1: &a1 {x: *a0, y: *a0}\na2: {x: *a1, y: *a1}",
    "an alias of itself": "a: &a {b: *a}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused(name: str) -> None:
    with pytest.raises(PlanError, match=r"not YAML(?s:.*)(nested deeper|anchors and aliases)"):
        plan_from_yaml(HOSTILE[name])


@pytest.mark.parametrize("op", ["R1DynamicRoPE", "R1HLAAttention"])
def test_an_operator_has_one_activation_type(op: str) -> None:
    layer = LayerPrecision(op=op, input="bf16", output="fp32", reason="x")
    with pytest.raises(PlanError, match="one type for both"):
        replace(PLAN, layers={"layer": layer})


@pytest.mark.parametrize(
    "text",
    ["a: [" + "1," * 1_000_000 + "1]", "a: " + "1:" * 1_000_000 + "1", "a: " + "x" * 3000, "- " * 100_000],
    ids=["many values", "a number of base 60", "a long value", "depth"],
)
def test_what_takes_a_parser_long_is_refused_early(text: str) -> None:
    with pytest.raises(PlanError, match="not YAML"):
        plan_from_yaml(text)
