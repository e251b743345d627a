"""Rules and checks on exported graphs of tiny checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from tiny_checkpoints import write_llama, write_r1_asa

from r1trt.arch import Backend
from r1trt.checkpoint import checkpoint_from_dir
from r1trt.errors import PlanError
from r1trt.export.model import onnx_from_checkpoint
from r1trt.precision.checks import check_plan, check_plan_fits_model, graph_hash, layer_nodes
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import plan_from_rules


@pytest.fixture(scope="module")
def r1_asa(tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    directory = tmp_path_factory.mktemp("r1_asa")
    write_r1_asa(directory, num_shared_experts=1, shared_intermediate_size=48)
    return onnx_from_checkpoint(checkpoint_from_dir(directory), 64)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    return onnx_from_checkpoint(checkpoint_from_dir(write_llama(tmp_path_factory.mktemp("llama"))), 64)


def test_every_layer_has_one_entry(r1_asa: ir.Model) -> None:
    plan = plan_from_rules(r1_asa, "ada", "fp8")
    assert list(plan.layers) == list(layer_nodes(r1_asa))
    check_plan_fits_model(plan, r1_asa)


FP8_TYPES = {
    "model.embed_tokens": ("int64", "bf16", "bf16"),
    "model.layers.0.input_layernorm": ("bf16", "fp32", "bf16"),
    "model.layers.0.self_attn.q_proj": ("fp8_e4m3", "fp8_e4m3", "bf16"),
    "model.layers.0.self_attn.o_proj": ("fp8_e4m3", "fp8_e4m3", "bf16"),
    "model.layers.0.self_attn.lam_gate": ("bf16", "fp32", "fp32"),
    "model.layers.0.self_attn.rope": ("bf16", None, "bf16"),
    "model.layers.0.self_attn.attention": ("bf16", None, "bf16"),
    "model.layers.0.attn_residual": ("bf16", None, "bf16"),
    "model.layers.0.mlp.moe": ("fp8_e4m3", "fp8_e4m3", "bf16"),
    "lm_head": ("bf16", "bf16", "bf16"),
}


@pytest.mark.parametrize("name", FP8_TYPES)
def test_fp8_rules(r1_asa: ir.Model, name: str) -> None:
    layer = plan_from_rules(r1_asa, "ada", "fp8").layers[name]
    assert (layer.input, layer.weight, layer.output) == FP8_TYPES[name]


def test_attention_is_marked_unverified(r1_asa: ir.Model) -> None:
    layers = plan_from_rules(r1_asa, "ada", "bf16").layers
    assert layers["model.layers.0.self_attn.attention"].internals == "unverified"


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_wide_plans_need_no_scales(r1_asa: ir.Model, precision: str) -> None:
    plan = plan_from_rules(r1_asa, "ampere", precision)  # type: ignore[arg-type]  # the parameter's values
    assert not plan.missing_scales and not plan.uses_fp8
    used = {kind for layer in plan.layers.values() for kind in (layer.input, layer.weight, layer.output)}
    assert used <= {precision, "fp32", "int64", None}


def test_open_scales_are_listed(llama: ir.Model) -> None:
    plan = plan_from_rules(llama, "ada", "fp8")
    assert "model.layers.1.mlp.down_proj.input_scale" in plan.missing_scales
    assert len(plan.missing_scales) == 2 * 7 * 2


def test_fp8_below_sm89_is_refused(llama: ir.Model) -> None:
    with pytest.raises(PlanError, match="SM86 have no FP8"):
        plan_from_rules(llama, "ampere", "fp8")


def test_a_plan_of_another_architecture_is_refused(llama: ir.Model) -> None:
    with pytest.raises(PlanError, match="made for --arch ada"):
        check_plan(plan_from_rules(llama, "ada", "bf16"), "hopper")


ATTENTION, MOE, ROPE = (
    "model.layers.0.self_attn.attention",
    "model.layers.0.mlp.moe",
    "model.layers.0.self_attn.rope",
)


def plan_with(model: ir.Model, precision: Any, **layers: dict[str, Any]) -> PrecisionPlan:
    plan = plan_from_rules(model, "ada", precision)
    edited = {name: replace(plan.layers[name], **edits) for name, edits in layers.items()}
    return replace(plan, layers={**plan.layers, **edited})


OTHER_BUILDERS: tuple[Backend | None, ...] = (None, "tensorrt-rtx", "onnxruntime")
WIDE = {"input": "fp32", "output": "fp32"}


@pytest.mark.parametrize(
    ("precision", "layers"),
    [
        ("bf16", {ATTENTION: WIDE}),
        ("bf16", {MOE: WIDE | {"weight": "fp32", "shared_weight": "fp32"}}),
        ("fp8", {MOE: {"output": "fp32"}, ATTENTION: WIDE}),
    ],
)
def test_types_that_no_plugin_computes_in_are_refused(
    r1_asa: ir.Model, precision: str, layers: dict[str, dict[str, Any]]
) -> None:
    """Of every layer at once, and for the builder that takes plugins alone."""
    plan = plan_with(r1_asa, precision, **layers)
    for backend in OTHER_BUILDERS:
        check_plan(plan, "ada", backend)
    with pytest.raises(PlanError, match="its plugins compute in other types") as caught:
        check_plan(plan, "ada", "tensorrt")
    found = caught.value.details["found"].strip().splitlines()
    assert len(found) == len(layers)
    for name in layers:
        assert f"'{name}': the activations are fp32" in caught.value.details["found"]
    assert all(line.endswith("has kernels for bf16 alone") for line in found)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_types_that_the_plugins_compute_in_pass(r1_asa: ir.Model, precision: str) -> None:
    check_plan(plan_with(r1_asa, precision, **{ROPE: WIDE}), "ada", "tensorrt")


def test_all_differences_to_the_model_are_listed(llama: ir.Model) -> None:
    plan = plan_from_rules(llama, "ada", "bf16")
    layers = dict(plan.layers)
    layers["model.layers.7.mlp.act"] = layers.pop("model.layers.1.mlp.act")
    layers["model.norm"] = replace(layers["model.layers.0.mlp.act"], op="Add")
    wrong = replace(plan, layers=layers)
    with pytest.raises(PlanError) as caught:
        check_plan_fits_model(wrong, llama)
    text = str(caught.value)
    assert "'model.layers.1.mlp.act' (R1SwiGLU) has no entry" in text
    assert "the model has no layer 'model.layers.7.mlp.act'" in text
    assert "'model.norm' is R1RMSNorm in the model, Add in the plan" in text


def test_a_plan_of_another_model_is_refused(tmp_path: Path, llama: ir.Model) -> None:
    wider = write_llama(tmp_path, intermediate_size=112)
    plan = plan_from_rules(llama, "ada", "bf16")
    with pytest.raises(PlanError, match="model_hash"):
        check_plan_fits_model(plan, onnx_from_checkpoint(checkpoint_from_dir(wider), 64))


def test_a_plan_outlives_another_capacity(tmp_path: Path) -> None:
    checkpoint = checkpoint_from_dir(write_llama(tmp_path))
    hashes = {graph_hash(onnx_from_checkpoint(checkpoint, capacity)) for capacity in (32, 64)}
    assert len(hashes) == 1
