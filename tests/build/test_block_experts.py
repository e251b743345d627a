"""Mixtures whose experts are in INT8 and INT4 blocks, from a checkpoint to a session on the CPU."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from export.agreement import FEEDS, feed, random_prompts
from families.family_builds import build
from fp8_checkpoints import quantize_checkpoint
from tiny_checkpoints import write_deepseek, write_r1_asa

from r1trt.arch import BuildPrecision
from r1trt.calibrate.calibrate import CalibrationConfig
from r1trt.checkpoint import checkpoint_from_dir
from r1trt.errors import PlanError
from r1trt.estimate.planned import planned_model
from r1trt.estimate.source import sized_model
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.export.model import onnx_from_checkpoint
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.precision.checks import check_plan
from r1trt.precision.plan_file import load_plan
from r1trt.precision.rules import plan_from_rules
from r1trt.runtime.load import session_from_engine
from r1trt.search.candidates import candidate_plans, groups_of_candidates
from r1trt.search.times import CostModel, Workload, device_for_arch

V3_MOE, R1_MOE = "model.layers.1.mlp.moe", "model.layers.0.mlp.moe"
# Of logits of random weights, which rounding moves more than trained ones.
ERRORS: dict[BuildPrecision, float] = {"int8": 0.05, "int4": 0.4}


def write_v3(directory: Path, **options: Any) -> Path:
    """Every token takes every expert: a rounding changes weights, and no choices."""
    every = {"num_experts_per_tok": 8, "n_group": 1, "topk_group": 1}
    return write_deepseek(directory, tokenizer=True, moe_intermediate_size=32, **every, **options)


def write_asa(directory: Path, **options: Any) -> Path:
    """The same."""
    shared = {"num_shared_experts": 1, "shared_intermediate_size": 48}
    return write_r1_asa(directory, tokenizer=True, top_k=8, **shared, **options)


def expert_layer(engine: Path) -> LayerPrecision:
    layers = load_plan(engine / "precision.yaml").layers
    return next(layer for layer in layers.values() if layer.op == "R1DynamicMoE")


def logits(engine: Path, prompts: Any, calls: Any) -> list[np.ndarray]:
    return feed(session_from_engine(engine), prompts, calls)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("write", [write_v3, write_asa], ids=["deepseek-v3", "r1-asa"])
def test_an_engine_is_near_the_wide_one(write: Any, precision: BuildPrecision, tmp_path: Path) -> None:
    """Prompts in one call and in several, with padding; and the experts take the bytes that they should."""
    checkpoint = write(tmp_path / "checkpoint")
    narrow, wide = (build(checkpoint, tmp_path / name, "cpu", name) for name in (precision, "fp32"))
    layer = expert_layer(narrow)
    assert (layer.weight, layer.shared_weight, layer.input, layer.block_size) == (
        precision, precision, "int8", 32,
    )  # fmt: skip
    prompts = random_prompts((37, 23), session_from_engine(wide).limits.vocab_size)
    for calls in FEEDS.values():
        for got, want in zip(logits(narrow, prompts, calls), logits(wide, prompts, calls), strict=True):
            error = np.sqrt(np.square(got - want).mean() / np.square(want).mean())
            assert 1e-4 < error < ERRORS[precision], f"{error:.4f}"
    graph = onnx.load(narrow / "cpu.onnx", load_external_data=False)
    bodies = [node.op_type for body in graph.functions for node in body.node]
    assert "QMoE" in bodies and "Loop" not in bodies
    stacks = {
        tensor.name: math.prod(tensor.dims) * (1 if tensor.data_type == onnx.TensorProto.UINT8 else 4)
        for tensor in graph.graph.initializer
        if ".experts." in tensor.name
    }
    bits = 8 if precision == "int8" else 4
    elements = 3 * 8 * 64 * 32 * sum("gate_up" in name and "scales" not in name for name in stacks)
    assert sum(stacks.values()) == elements * bits // 8 + elements // 32 * 4


def test_fp8_with_block_scales_is_quantized_again(tmp_path: Path) -> None:
    plain = write_v3(tmp_path / "plain", hidden_size=256)
    checkpoint = quantize_checkpoint(plain, tmp_path / "fp8")
    narrow, wide = (build(checkpoint, tmp_path / name, "cpu", name) for name in ("int8", "fp32"))
    layer = expert_layer(narrow)
    assert layer.weight == "int8" and not layer.own_scales
    assert layer.reason.endswith("weights quantized again from FP8 with block scales")
    prompts = random_prompts((37, 23), session_from_engine(wide).limits.vocab_size)
    for got, want in zip(
        *(logits(engine, prompts, FEEDS["prefill"]) for engine in (narrow, wide)), strict=True
    ):
        assert np.sqrt(np.square(got - want).mean() / np.square(want).mean()) < ERRORS["int8"]


def exported(directory: Path, **options: Any) -> ir.Model:
    return onnx_from_checkpoint(checkpoint_from_dir(write_asa(directory, **options)), 64)


@pytest.mark.parametrize(
    ("width", "block_size", "reason"),
    [
        (32, 32, "weights in INT4 blocks"),
        (48, 16, "weights in INT4 blocks"),
        (40, None, "width is 40, no mul"),
    ],
)
def test_the_rules_take_blocks_that_fit(
    width: int, block_size: int | None, reason: str, tmp_path: Path
) -> None:
    plan = plan_from_rules(exported(tmp_path, moe_intermediate_size=width), "cpu", "int4")
    layer = plan.layers[R1_MOE]
    assert layer.block_size == block_size and reason in layer.reason
    assert layer.weight == ("int4" if block_size else "fp32") and not plan.missing_scales


def test_other_targets_refuse_blocks(tmp_path: Path) -> None:
    model = exported(tmp_path)
    assert plan_from_rules(model, "ampere", "int8").layers[R1_MOE].weight == "bf16"
    plan = plan_from_rules(model, "cpu", "int8")
    layers = {R1_MOE: plan.layers[R1_MOE]}
    for backend in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(PlanError, match="weights in blocks are ONNX Runtime's"):
            check_plan(replace(plan, arch="ampere", layers=layers), "ampere", backend)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_estimate_counts_codes_and_scales(precision: BuildPrecision, tmp_path: Path) -> None:
    checkpoint = write_asa(tmp_path / "checkpoint")
    planned = planned_model(sized_model(checkpoint), "cpu", precision, 64)
    stacks = [weight for weight in planned.weights if weight.part in ("experts", "shared expert")]
    assert {weight.part for weight in stacks} == {"experts", "shared expert"}
    model = build(checkpoint, tmp_path, "cpu", precision)
    assert planned.bytes == pytest.approx((model / "weights.safetensors").stat().st_size, rel=0.05)


def test_a_search_may_put_experts_into_blocks(tmp_path: Path) -> None:
    checkpoint = write_asa(tmp_path / "checkpoint")
    export = load_export(
        export_checkpoint(ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=64))
    )
    plans = candidate_plans(export, "cpu", CalibrationConfig(tokens=256, chunk=64, tokenizer=checkpoint))
    found = {kind: plan.layers[R1_MOE] for kind, plan in plans.items()}
    assert {kind: (layer.weight, layer.shared_weight, layer.block_size) for kind, layer in found.items()} == {
        "fp32": ("fp32", "fp32", None),
        "int8": ("int8", "int8", 32),
        "int4": ("int4", "int4", 32),
    }
    (group,) = (group for group in groups_of_candidates(export.model, plans) if R1_MOE in group.layers)
    model = CostModel(export.model, plans["fp32"], "bytes", device_for_arch("cpu"), Workload())
    weights = 3 * 64 * (8 * 32 + 48)
    assert [model.cost(choice) for choice in group.choices] == [
        4 * weights, weights + weights // 8, weights // 2 + weights // 8,
    ]  # fmt: skip
