from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fp8_checkpoints import QUANTIZATION, RAGGED, Tensors, change_config, change_tensors, quantize_checkpoint
from tiny_checkpoints import write_deepseek, write_llama

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.errors import CheckpointError
from r1trt.model import load_checkpoint

ATTENTION = "model.layers.0.self_attn"


def write(directory: Path) -> Path:
    return quantize_checkpoint(write_deepseek(directory / "plain", **RAGGED), directory / "fp8")


def findings(checkpoint: Path) -> str:
    with pytest.raises(CheckpointError, match="tensors do not fit") as caught:
        checkpoint_from_dir(checkpoint)
    return str(caught.value)


def test_scales_are_beside_the_tensors(tmp_path: Path) -> None:
    checkpoint = checkpoint_from_dir(write(tmp_path))
    fp8 = {name for name, ref in checkpoint.tensors.items() if ref.dtype == "F8_E4M3"}
    assert {name.removesuffix("_scale_inv") for name in checkpoint.scales} == fp8
    scale = checkpoint.scales[f"{ATTENTION}.o_proj.weight_scale_inv"]
    assert (scale.dtype, scale.shape) == ("F32", (2, 1))


def test_all_findings_in_one_error(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)

    def damage(tensors: Tensors) -> None:
        del tensors[f"{ATTENTION}.o_proj.weight_scale_inv"]
        tensors[f"{ATTENTION}.q_a_proj.weight_scale_inv"] = torch.ones(1, 3)
        tensors[f"{ATTENTION}.q_b_proj.weight_scale_inv"] = torch.ones(2, 1, dtype=torch.float64)
        tensors[f"{ATTENTION}.kv_b_proj.weight"] = tensors[f"{ATTENTION}.kv_b_proj.weight"].bfloat16()
        tensors["model.layers.1.mlp.gate.weight_scale_inv"] = torch.ones(1, 2)
        tensors["model.layers.9.mlp.gate.weight_scale_inv"] = torch.ones(1, 2)
        tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.float8_e4m3fn)
        name = "model.layers.1.mlp.experts.3.up_proj.weight"
        tensors[name] = tensors[name].float()
        del tensors[f"{name}_scale_inv"]

    change_tensors(checkpoint, damage)
    message = findings(checkpoint)
    for line in (
        f"missing scales of FP8 weights (1):\n    {ATTENTION}.o_proj.weight_scale_inv [2, 1]",
        f"scales without FP8 weights (2):\n    {ATTENTION}.kv_b_proj.weight_scale_inv\n    "
        "model.layers.1.mlp.gate.weight_scale_inv",
        "wrong scales (2):",
        f"{ATTENTION}.q_a_proj.weight_scale_inv: F32 [1, 3] instead of F32 [1, 2]",
        f"{ATTENTION}.q_b_proj.weight_scale_inv: F64 [2, 1] instead of F32 [2, 1]",
        "unexpected (1):\n    model.layers.9.mlp.gate.weight_scale_inv",
        "wrong dtype (1):\n    lm_head.weight: F8_E4M3",
        "expected: 53 tensors of F32, BF16, F16, projections also of F8_E4M3 with scales",
        "FP8 in some of a layer's experts (1):\n    model.layers.1.mlp.experts.*",
    ):
        assert line in message, line


def test_fp8_that_the_configuration_does_not_announce(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    change_config(checkpoint, quantization_config=None)
    message = findings(checkpoint)
    assert "wrong dtype" in message and "o_proj.weight: F8_E4M3" in message and "unexpected" in message


def test_fp8_that_the_configuration_leaves_out(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    left_out = {**QUANTIZATION, "modules_to_not_convert": [f"{ATTENTION}.o_proj"]}
    change_config(checkpoint, quantization_config=left_out)
    message = findings(checkpoint)
    assert f"wrong dtype (1):\n    {ATTENTION}.o_proj.weight: F8_E4M3" in message
    assert f"scales without FP8 weights (1):\n    {ATTENTION}.o_proj.weight_scale_inv" in message


def test_pytorch_does_not_read_them(tmp_path: Path) -> None:
    plain = write_llama(tmp_path / "plain")
    checkpoint = quantize_checkpoint(plain, tmp_path / "fp8")
    with pytest.raises(CheckpointError, match="does not read FP8"):
        load_checkpoint(checkpoint)
    assert load_checkpoint(plain).config == checkpoint_from_dir(plain).config
