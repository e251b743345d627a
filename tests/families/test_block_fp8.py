"""Checkpoints in FP8 with block scales: what is exported and built is the dequantized model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from export.agreement import FEEDS, assert_export_equals_transformers, exported_session, feed, random_prompts
from families.deepseek_checks import Reference, assert_export_agrees
from families.family_builds import assert_cpu_engine_generates, assert_fp8_engine_obeys_its_plan, build
from fp8_checkpoints import (
    COMPRESSED,
    QUANTIZATION,
    RAGGED,
    Tensors,
    change_config,
    change_tensors,
    quantize_checkpoint,
)
from safetensors.torch import load_file
from tiny_checkpoints import write_deepseek, write_r1_asa, write_transformers

from r1trt.artifacts import BuildArtifact, ExportArtifact
from r1trt.artifacts.export import ExportManifest
from r1trt.errors import CheckpointError, ConfigError, PlanError, UnavailableError
from r1trt.estimate.known_models import KNOWN_MODELS
from r1trt.estimate.source import sized_model, sized_model_from_config
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.families import model_config_from_dict
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.precision.checks import check_plan, check_plan_fits_model
from r1trt.precision.plan_file import load_plan
from r1trt.precision.rules import plan_from_rules
from r1trt.runtime.graph_session import session_from_simulation
from r1trt.runtime.load import session_from_engine

V2 = {"architecture": "DeepseekV2ForCausalLM"}
CASES: dict[str, dict[str, Any]] = {
    "V3": {},
    "V3, as published": {"hub_spelling": True},
    "V3, whole blocks": {"hidden_size": 256, "moe_intermediate_size": 128, "kv_lora_rank": 128},
    "V3, one block": {"hidden_size": 64, "moe_intermediate_size": 20, "kv_lora_rank": 32},
    "V3, bfloat16": {"dtype": "bfloat16"},
    "V2": V2,
    "V2, no low rank of queries": {**V2, "q_lora_rank": None, "n_shared_experts": 2},
}
LEFT_OUT: dict[str, list[str]] = {
    "shared experts": ["shared_experts.gate_proj", "shared_experts.down_proj"],
    "attention": ["kv_b_proj", "q_a_proj", "o_proj"],
}


def write(directory: Path, *, left_out: list[str] | None = None, **options: Any) -> tuple[Path, Path]:
    """A checkpoint in FP8, and the same model dequantized."""
    plain = write_deepseek(directory / "plain", tokenizer=True, **{**RAGGED, **options})
    return quantize_checkpoint(plain, directory / "fp8", left_out=left_out or []), plain


def exported(checkpoint: Path, output: Path) -> Path:
    return export_checkpoint(ExportConfig(checkpoint=checkpoint, output=output, max_seq_len=64))


@pytest.mark.parametrize("name", CASES)
def test_export(name: str, tmp_path: Path) -> None:
    checkpoint, plain = write(tmp_path, **CASES[name])
    assert_export_agrees(checkpoint, tmp_path / "export", reference=plain)


@pytest.mark.parametrize("name", ["shared experts", "attention"])
def test_modules_that_are_left_out(name: str, tmp_path: Path) -> None:
    checkpoint, plain = write(tmp_path, left_out=LEFT_OUT[name])
    assert_export_agrees(checkpoint, tmp_path / "export", reference=plain)


@pytest.mark.parametrize("compressed", [False, True], ids=["DeepSeek", "compressed-tensors"])
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_spellings_and_types_of_scales(compressed: bool, scale_dtype: torch.dtype, tmp_path: Path) -> None:
    plain = write_deepseek(tmp_path / "plain", tokenizer=True, **RAGGED)
    checkpoint = quantize_checkpoint(
        plain, tmp_path / "fp8", compressed=compressed, scale_dtype=scale_dtype, left_out=["kv_b_proj"]
    )
    assert_export_agrees(checkpoint, tmp_path / "export", reference=plain)


@pytest.mark.parametrize("quantization", [QUANTIZATION, COMPRESSED], ids=["DeepSeek", "compressed-tensors"])
def test_a_conversion_that_still_has_the_key(quantization: dict[str, Any], tmp_path: Path) -> None:
    plain = write_deepseek(tmp_path / "plain", tokenizer=True, **RAGGED)
    shutil.copytree(plain, tmp_path / "conversion")
    change_config(tmp_path / "conversion", quantization_config=quantization)
    export = exported(tmp_path / "conversion", tmp_path / "export")
    (note,) = ExportArtifact.read(export).manifest.notes
    assert "no tensor is FP8: the key is ignored" in note
    assert_export_agrees(tmp_path / "conversion", tmp_path / "again", reference=plain)


@pytest.mark.parametrize("arch", ["cpu", "ada"])
def test_builds_of_the_other_spelling(arch: str, tmp_path: Path) -> None:
    plain = write_deepseek(tmp_path / "plain", tokenizer=True, **RAGGED)
    checkpoint = quantize_checkpoint(plain, tmp_path / "fp8", compressed=True, scale_dtype=torch.bfloat16)
    if arch == "cpu":
        assert_cpu_engine_generates(checkpoint, tmp_path, plain)
    else:
        assert_fp8_engine_obeys_its_plan(
            checkpoint, tmp_path, product="model.layers.0.self_attn.q_b_proj", requantize="tensor"
        )


COMPRESSED_DIFFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "format": ({"format": "pack-quantized"}, "format 'pack-quantized'"),
    "groups": ({"config_groups": {}}, "config_groups {}"),
    "cache": ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme {'num_bits': 8}"),
    "pattern": ({"ignore": ["re:(a+)+$"]}, "ignore 're:(a+)+$' is a pattern that is not understood"),
    "no pattern": ({"ignore": ["re:*("]}, "ignore 're:*('"),
    "names": ({"ignore": "lm_head"}, "ignore 'lm_head' is not a list of names"),
}


@pytest.mark.parametrize("name", COMPRESSED_DIFFERENCES)
def test_other_compressed_tensors_are_refused(name: str) -> None:
    changes, finding = COMPRESSED_DIFFERENCES[name]
    assert finding in refusal({**COMPRESSED, **changes})


def test_every_difference_of_a_group_is_listed() -> None:
    group = json.loads(json.dumps(COMPRESSED["config_groups"]["group_0"]))
    group["weights"] |= {"strategy": "channel", "num_bits": 4, "block_structure": None}
    group["input_activations"]["dynamic"] = False
    found = refusal({**COMPRESSED, "config_groups": {"group_0": group}})
    assert "config_groups.group_0.input_activations.dynamic False" in found
    for text in ("strategy 'channel'", "num_bits 4", "block_structure None"):
        assert f"config_groups.group_0.weights.{text}" in found


def refusal(quantization: dict[str, Any]) -> str:
    """What is found in a config.json that is refused."""
    raw = {**KNOWN_MODELS["r1-671b"], "quantization_config": quantization}
    with pytest.raises(ConfigError) as caught:
        model_config_from_dict(raw, where=Path("config.json"))
    return str(caught.value)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM"])
def test_dense_families(architecture: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 200, "intermediate_size": 136, "head_dim": 40}
    plain = write_transformers(tmp_path / "plain", architecture, **sizes)
    checkpoint = quantize_checkpoint(plain, tmp_path / "fp8")
    assert_export_equals_transformers(checkpoint, tmp_path / "export", plain)


def test_r1_asa(tmp_path: Path) -> None:
    plain = write_r1_asa(tmp_path / "plain", hidden_size=136, moe_intermediate_size=132)
    checkpoint = quantize_checkpoint(plain, tmp_path / "fp8")
    got, want = (
        feed(exported_session(path, tmp_path / name), random_prompts((37, 23), 320), FEEDS["chunks"])
        for path, name in ((checkpoint, "of_fp8"), (plain, "of_plain"))
    )
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_the_export_keeps_the_checkpoints_bytes(tmp_path: Path) -> None:
    checkpoint, _ = write(tmp_path)
    graph = load_export(exported(checkpoint, tmp_path / "export")).model.graph
    weights = {name: value for name, value in graph.initializers.items() if "_proj.weight" in name}
    for name, value in weights.items():
        assert isinstance(value.const_value, ir.ExternalTensor) and value.dtype is not None
        experts = ".experts." in name and not name.endswith("_scale_inv")
        wanted = ir.DataType.UINT8 if experts else ir.DataType.FLOAT8E4M3FN
        assert value.dtype == (ir.DataType.FLOAT if name.endswith("_scale_inv") else wanted)
    assert len([name for name in weights if name.endswith("_scale_inv")]) == len(weights) / 2


def test_an_export_reads_no_weights(tmp_path: Path) -> None:
    """Weights and scales that are all NaN, in a file whose bytes are counted as they are read."""
    checkpoint, _ = write(tmp_path, vocab_size=4000)
    exported(checkpoint, tmp_path / "export")
    path = checkpoint / "model.safetensors"
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[:start] + b"\xff" * (len(data) - start))
    before = _bytes_read()
    exported(checkpoint, tmp_path / "again")
    assert _bytes_read() - before < (len(data) - start) / 2
    one, other = ((tmp_path / name / "model.onnx").read_bytes() for name in ("export", "again"))
    assert one == other


def _bytes_read() -> int:
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar:"))
    return int(line.split()[1])


def test_only_routed_experts_are_dequantized(tmp_path: Path) -> None:
    """Scales of all other experts are NaN, which would spoil whatever they touch."""
    checkpoint, plain = write(tmp_path, n_routed_experts=16)
    (prompt,) = random_prompts((3,), 320)
    reference = Reference(plain)
    want, _ = reference.logits(prompt)
    others = set(range(16)) - reference.experts(1)
    assert len(others) >= 16 - 3 * 3

    def spoil(tensors: Tensors) -> None:
        scales = [name for name in tensors if name.endswith("_scale_inv")]
        spoiled = [name for name in scales if any(f".experts.{expert}." in name for expert in others)]
        assert len(spoiled) == 3 * len(others)
        for name in spoiled:
            tensors[name].fill_(float("nan"))

    change_tensors(checkpoint, spoil)
    (got,) = feed(exported_session(checkpoint, tmp_path / "export"), [prompt], [(3,)])
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_layers_behind_the_last_are_skipped_with_their_scales(tmp_path: Path) -> None:
    checkpoint, _ = write(tmp_path)

    def add(tensors: Tensors) -> None:
        prefix = "model.layers.1.self_attn.o_proj."
        last = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        tensors |= {name.replace("layers.1.", "layers.2."): tensor.clone() for name, tensor in last.items()}

    change_tensors(checkpoint, add)
    output = exported(checkpoint, tmp_path / "export")
    assert any("its 2 tensors are skipped" in note for note in ExportManifest.read(output).notes)


def test_cpu_engine(tmp_path: Path) -> None:
    checkpoint, plain = write(tmp_path)
    assert_cpu_engine_generates(checkpoint, tmp_path, plain)


def test_fp8_engine(tmp_path: Path) -> None:
    """Quantized again where asked for: the scales are the dequantized model's; the plan has their error."""
    checkpoint, plain = write(tmp_path)
    product, absorbed = (f"model.layers.1.self_attn.{name}" for name in ("q_a_proj", "q_absorb"))
    assert_fp8_engine_obeys_its_plan(checkpoint, tmp_path, product=product, requantize="tensor")
    layers = load_plan(tmp_path / "engine" / "precision.yaml").layers
    assert layers[product].reason.endswith("weights quantized again from FP8 with block scales")
    assert layers[absorbed].reason.endswith("weights dequantized from FP8 with block scales")
    assert "block scales" in layers["model.layers.1.mlp.moe"].reason
    assert "block scales" not in layers["lm_head"].reason + layers["model.norm"].reason
    same = load_plan(build(plain, tmp_path / "of_plain", "ada", "fp8") / "precision.yaml").layers
    for name, layer in layers.items():
        assert (layer.weight_scale, layer.down_scale) == (same[name].weight_scale, same[name].down_scale)
        assert (layer.weight_error is not None) == ("quantized again" in layer.reason)
    weights = load_file(plain / "model.safetensors")[f"{product}.weight"].numpy()
    codes = np.clip(weights / np.float32(layers[product].weight_scale), -448, 448)
    back = codes.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(layers[product].weight_scale)
    error = np.sqrt(((back - weights) ** 2).mean() / (weights**2).mean())
    assert layers[product].weight_error == pytest.approx(error, rel=1e-3) and 1e-3 < error < 0.04


def test_scales_that_are_no_positive_numbers_are_refused_by_a_build(tmp_path: Path) -> None:
    checkpoint, _ = write(tmp_path)
    bad = {"o_proj": 0.0, "kv_b_proj": -1.0, "q_a_proj": float("nan"), "q_b_proj": float("inf")}
    names = [f"model.layers.0.self_attn.{part}.weight_scale_inv" for part in bad]

    def spoil(tensors: Tensors) -> None:
        for name, value in zip(names, bad.values(), strict=True):
            tensors[name][0, 0] = value

    change_tensors(checkpoint, spoil)
    with pytest.raises(CheckpointError, match=r"4 weights .*scales that are not positive") as caught:
        build(checkpoint, tmp_path, "cpu", "fp32")
    assert all(f"{name}: 1" in str(caught.value.details["found"]) for name in names)


def test_nan_in_the_bytes_of_an_expert_is_refused_by_a_build(tmp_path: Path) -> None:
    checkpoint, _ = write(tmp_path)
    name = "model.layers.1.mlp.experts.5.up_proj.weight"

    def spoil(tensors: Tensors) -> None:
        tensors[name][7, 9] = float("nan")

    change_tensors(checkpoint, spoil)
    with pytest.raises(CheckpointError, match="1 weights hold NaN or infinity") as caught:
        build(checkpoint, tmp_path, "cpu", "fp32")
    assert f"{name}: 1" in str(caught.value.details["found"])


def test_a_configuration_is_sized_as_its_checkpoint_is(tmp_path: Path) -> None:
    checkpoint, _ = write(tmp_path)
    raw = json.loads((checkpoint / "config.json").read_text())
    imagined = sized_model_from_config("config.json", raw, where=checkpoint)
    real = sized_model(str(checkpoint))
    assert imagined.stored_bytes == real.stored_bytes and imagined.scales.keys() == real.scales.keys()
    assert {"F8_E4M3", "F32"} == set(real.stored_bytes)
    export = exported(checkpoint, tmp_path / "export")
    assert sized_model(str(export)).scales == real.scales


# ------------------------------------------------------------------ builds that keep the checkpoint's own FP8

WHOLE_BLOCKS: dict[str, Any] = {
    "hidden_size": 256,
    "moe_intermediate_size": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "n_routed_experts": 16,
}
MOE = "model.layers.1.mlp.moe"


@pytest.mark.parametrize("sizes", [{}, WHOLE_BLOCKS], ids=["ragged", "whole blocks"])
def test_a_cpu_engine_keeps_the_experts(sizes: dict[str, Any], tmp_path: Path) -> None:
    """A quarter of the bytes, and the same logits as the dequantized model's."""
    checkpoint, plain = write(tmp_path, **sizes)
    engine = build(checkpoint, tmp_path, "cpu", "fp32")
    layer = load_plan(engine / "precision.yaml").layers[MOE]
    assert (layer.input, layer.weight, layer.shared_weight, layer.own_scales) == (
        "fp32", "fp8_e4m3", "fp8_e4m3", True,
    )  # fmt: skip
    graph = ir.load(BuildArtifact.read(engine).cpu_engine).graph
    (node,) = (node for node in graph if node.op_type == "R1DynamicMoE")
    stacks = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.UINT8]
    assert len(stacks) == 4
    session, reference = session_from_engine(engine), Reference(plain)
    prompts = random_prompts((37, 23), session.limits.vocab_size)
    for got, prompt in zip(feed(session, prompts, FEEDS["chunks"]), prompts, strict=True):
        want, clear = reference.logits(prompt)
        error = np.abs(got - want)[clear].max() / np.abs(want).max()
        assert clear.mean() > 0.9 and error <= 1e-4, f"{error:.2e}"


def test_only_routed_experts_of_an_engine_are_dequantized(tmp_path: Path) -> None:
    """Bytes of all other experts become NaN behind the build, which would spoil whatever they touch."""
    checkpoint, plain = write(tmp_path, n_routed_experts=16)
    engine = build(checkpoint, tmp_path, "cpu", "fp8")
    (prompt,) = random_prompts((3,), 320)
    reference = Reference(plain)
    reference.logits(prompt)
    others = sorted(set(range(16)) - reference.experts(1))
    assert len(others) >= 16 - 3 * 3
    (want,) = feed(session_from_engine(engine), [prompt], [(3,)])
    graph = ir.load(BuildArtifact.read(engine).cpu_engine).graph
    for name in ("gate_up", "down"):
        tensor = graph.initializers[f"model.layers.1.mlp.experts.{name}.weight.fp8_e4m3"].const_value
        assert isinstance(tensor, ir.ExternalTensor) and tensor.offset is not None
        each = tensor.nbytes // 16
        with Path(tensor.path).open("r+b") as file:
            for expert in others:
                file.seek(tensor.offset + expert * each)
                file.write(b"\x7f" * each)
    (got,) = feed(session_from_engine(engine), [prompt], [(3,)])
    np.testing.assert_array_equal(got, want)


def test_an_fp8_engine_for_the_cpu_quantizes_as_hopper_does(tmp_path: Path) -> None:
    """Activations in FP8 by scales of 128 neighbours each: near the dequantized model, and not it."""
    checkpoint, plain = write(tmp_path, **WHOLE_BLOCKS, num_experts_per_tok=16, n_group=1, topk_group=1)
    engine = build(checkpoint, tmp_path, "cpu", "fp8")
    layers = load_plan(engine / "precision.yaml").layers
    assert layers[MOE].input == "fp8_e4m3" and layers[MOE].input_scale is None
    assert layers["model.layers.1.self_attn.o_proj"].weight == "bf16"
    session, reference = session_from_engine(engine), Reference(plain)
    prompts = random_prompts((37, 23), session.limits.vocab_size)
    for got, prompt in zip(feed(session, prompts, FEEDS["prefill"]), prompts, strict=True):
        want, _ = reference.logits(prompt)
        error = np.sqrt(((got - want) ** 2).mean() / (want**2).mean())
        assert 1e-3 < error < 0.05, f"{error:.3f}"


def test_hopper_keeps_bytes_and_scales(tmp_path: Path) -> None:
    checkpoint, _ = write(tmp_path, **WHOLE_BLOCKS)
    with pytest.raises(UnavailableError, match="Everything but the engine"):
        build(checkpoint, tmp_path, "hopper", "fp8")
    engine = tmp_path / "engine"
    layers = load_plan(engine / "precision.yaml").layers
    assert layers[MOE].own_scales and layers[MOE].quantizes_input
    assert {layer.weight for name, layer in layers.items() if name != MOE} == {"bf16", "fp32", None}
    graph = ir.load(engine / "typed.onnx").graph
    (node,) = (node for node in graph if node.op_type == "R1DynamicMoE")
    values = {name: value for name, value in zip(_present(node), node.inputs, strict=True)}
    assert "x_scale" not in values and "mid_scale" not in values
    assert node.attributes["weight_only"].as_int() == 0
    tensors = load_file(checkpoint / "model.safetensors")
    prefix = "model.layers.1.mlp.experts"
    want = torch.stack([
        torch.cat([tensors[f"{prefix}.{index}.{part}_proj.weight"] for part in ("gate", "up")])
        for index in range(16)
    ])  # fmt: skip
    stack = values["w_gate_up"]
    assert stack.dtype == ir.DataType.FLOAT8E4M3FN and stack.const_value is not None
    np.testing.assert_array_equal(stack.const_value.numpy().view(np.uint8), want.view(torch.uint8).numpy())
    scales = [
        tensors[f"{prefix}.{index}.{part}_proj.weight_scale_inv"].reshape(-1)
        for index in range(16)
        for part in ("gate", "up")
    ] + [
        tensors[f"model.layers.1.mlp.shared_experts.{part}_proj.weight_scale_inv"].reshape(-1)
        for part in ("gate", "up")
    ]
    found = values["gate_up_scale"].const_value
    assert found is not None
    np.testing.assert_array_equal(found.numpy(), torch.cat(scales).numpy())
    session = session_from_simulation(BuildArtifact.read(engine))
    (got,) = feed(session, random_prompts((5,), 320), [(5,)])
    assert np.isfinite(got).all()


def _present(node: ir.Node) -> list[str]:
    mask = node.attributes["input_mask"].as_int()
    return [name for index, name in enumerate(DYNAMIC_MOE.inputs) if mask >> index & 1]


def test_hopper_dequantizes_experts_whose_width_its_plugin_does_not_take(tmp_path: Path) -> None:
    checkpoint, _ = write(tmp_path, **{**WHOLE_BLOCKS, "moe_intermediate_size": 144})
    with pytest.raises(UnavailableError, match="Everything but the engine"):
        build(checkpoint, tmp_path, "hopper", "fp8")
    layer = load_plan(tmp_path / "engine" / "precision.yaml").layers[MOE]
    assert (layer.weight, layer.own_scales) == ("bf16", False)
    assert "the width of experts is 144, the plugin's blocks want a multiple of 128" in layer.reason


def test_ada_dequantizes_unless_asked(tmp_path: Path) -> None:
    checkpoint, _ = write(tmp_path)
    model = load_export(exported(checkpoint, tmp_path / "export")).model
    layers = plan_from_rules(model, "ada", "fp8").layers
    assert {layer.weight for layer in layers.values()} == {"bf16", "fp32", None}
    assert "TensorRT-RTX multiplies by no block scales" in layers[MOE].reason
    again = plan_from_rules(model, "ada", "fp8", requantize="channel")
    assert again.layers[MOE].weight == "fp8_e4m3" and not again.layers[MOE].own_scales
    assert again.calibration["weight_scaling"] == "channel"


def test_nothing_to_quantize_again_is_refused(tmp_path: Path) -> None:
    _, plain = write(tmp_path)
    with pytest.raises(PlanError, match="nothing to quantize again"):
        build(plain, tmp_path, "ada", "fp8", "tensor")
    model = load_export(exported(tmp_path / "fp8", tmp_path / "again")).model
    with pytest.raises(PlanError, match="for FP8 products alone"):
        plan_from_rules(model, "ada", "bf16", requantize="tensor")


def test_own_scales_are_refused_where_there_are_none(tmp_path: Path) -> None:
    checkpoint, plain = write(tmp_path, **WHOLE_BLOCKS)
    plan = plan_from_rules(load_export(exported(checkpoint, tmp_path / "export")).model, "cpu", "fp32")
    other = load_export(exported(plain, tmp_path / "plain_export")).model
    with pytest.raises(PlanError, match="does not hold w_gate_up and w_down"):
        check_plan_fits_model(plan, other)
    with pytest.raises(PlanError, match="multiplies by no block scales"):
        check_plan(replace(plan, arch="ada"), "ada", "tensorrt-rtx")
