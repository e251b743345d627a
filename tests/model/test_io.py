"""Checkpoints of the reference module: what is written is what is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import r1_asa_module, r1_asa_raw_config, write_deepseek, write_r1_asa

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.errors import CheckpointError, ConfigError
from r1trt.model import load_checkpoint, save_checkpoint

RAW = r1_asa_raw_config(scoring="sigmoid", num_shared_experts=1, shared_intermediate_size=24)


@pytest.mark.parametrize("max_shard_bytes", [None, 50_000])
def test_round_trip_is_exact(tmp_path: Path, max_shard_bytes: int | None) -> None:
    module = r1_asa_module(RAW)
    save_checkpoint(module, tmp_path / "c", RAW, max_shard_bytes=max_shard_bytes)
    assert (tmp_path / "c/model.safetensors.index.json").exists() == (max_shard_bytes is not None)
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded.config == module.config
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_the_exporters_reader_accepts_what_is_written(tmp_path: Path) -> None:
    module = r1_asa_module(RAW)
    save_checkpoint(module, tmp_path / "c", RAW, dtype=torch.bfloat16, max_shard_bytes=50_000)
    checkpoint = checkpoint_from_dir(tmp_path / "c")
    assert set(checkpoint.tensors) == set(module.state_dict())
    name = "model.layers.1.mlp.experts.3.down_proj.weight"
    shard = load_file(tmp_path / "c" / checkpoint.tensors[name].file)
    assert torch.equal(shard[name], module.state_dict()[name].bfloat16())


def test_bf16_checkpoint_keeps_the_correction_bias_in_fp32(tmp_path: Path) -> None:
    write_r1_asa(tmp_path / "c", dtype="bfloat16", scoring="sigmoid", tokenizer=True)
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded.model.layers[0].mlp.router.e_score_correction_bias.dtype == torch.float32
    assert loaded.model.embed_tokens.weight.dtype == torch.bfloat16
    assert load_checkpoint(tmp_path / "c", torch.float64).model.norm.weight.dtype == torch.float64
    assert json.loads((tmp_path / "c/config.json").read_text())["dtype"] == "bfloat16"


def test_latent_attention_is_left_to_transformers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="grouped queries only") as caught:
        load_checkpoint(write_deepseek(tmp_path))
    assert caught.value.details["found"] == "DeepseekV3ForCausalLM"


def test_missing_unexpected_and_misshapen_tensors_are_all_named(tmp_path: Path) -> None:
    write_r1_asa(tmp_path / "c")
    file = tmp_path / "c/model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    tensors["model.extra"] = torch.zeros(1)
    tensors["lm_head.weight"] = torch.zeros(2, 2)
    save_file(tensors, file)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "c")
    for title, line in (
        ("missing", "model.norm.weight [64]"),
        ("unexpected", "model.extra [1]"),
        ("wrong shape", "lm_head.weight: [2, 2] instead of [320, 64]"),
    ):
        assert f"{title} (1):\n    {line}" in str(error.value)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_r1_asa(tmp_path / "c")
    (tmp_path / "c/model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path / "c")
    (tmp_path / "c/config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(tmp_path / "c")


def test_a_config_of_another_model_is_refused(tmp_path: Path) -> None:
    module = r1_asa_module(RAW)
    with pytest.raises(CheckpointError, match="does not describe"):
        save_checkpoint(module, tmp_path / "c", {**RAW, "top_k": 1})
    assert not (tmp_path / "c").exists()
