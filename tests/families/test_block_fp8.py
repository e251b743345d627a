"""Checkpoints in FP8 with block scales: what is exported and built is the dequantized model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from export.agreement import FEEDS, assert_export_equals_transformers, exported_session, feed, random_prompts
from families.deepseek_checks import Reference, assert_export_agrees
from families.family_builds import assert_cpu_engine_generates, assert_fp8_engine_obeys_its_plan, build
from fp8_checkpoints import RAGGED, Tensors, change_tensors, quantize_checkpoint
from tiny_checkpoints import write_deepseek, write_r1_asa, write_transformers

from r1trt.artifacts.export import ExportManifest
from r1trt.errors import CheckpointError
from r1trt.estimate.source import sized_model, sized_model_from_config
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.precision.plan_file import load_plan

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
    """The plan's own scales, and its reasons say so; the same scales as for the dequantized model."""
    checkpoint, plain = write(tmp_path)
    product, absorbed = (f"model.layers.1.self_attn.{name}" for name in ("q_a_proj", "q_absorb"))
    assert_fp8_engine_obeys_its_plan(checkpoint, tmp_path, product=product)
    layers = load_plan(tmp_path / "engine" / "precision.yaml").layers
    assert layers[product].reason.endswith("weights quantized again from FP8 with block scales")
    assert layers[absorbed].reason.endswith("weights dequantized from FP8 with block scales")
    assert "block scales" in layers["model.layers.1.mlp.moe"].reason
    assert "block scales" not in layers["lm_head"].reason + layers["model.norm"].reason
    same = load_plan(build(plain, tmp_path / "of_plain", "ada", "fp8") / "precision.yaml").layers
    for name, layer in layers.items():
        assert (layer.weight_scale, layer.down_scale) == (same[name].weight_scale, same[name].down_scale)


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
