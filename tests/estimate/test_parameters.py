"""Counts against the headers of checkpoints, against `transformers`, and against published figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_checkpoints import (
    r1_asa_raw_config,
    write_deepseek,
    write_llama,
    write_qwen2,
    write_r1_asa,
    write_transformers,
)

from r1trt.checkpoint import read_safetensors_header
from r1trt.estimate.known_models import KNOWN_MODELS
from r1trt.estimate.parameters import active_parameters, parameters
from r1trt.estimate.source import sized_model, sized_model_from_config

WRITERS: dict[str, Callable[..., Path]] = {
    "llama": write_llama,
    "qwen2": write_qwen2,
    "mistral": lambda path, **more: write_transformers(path, "MistralForCausalLM", **more),
    "qwen3": lambda path, **more: write_transformers(path, "Qwen3ForCausalLM", head_dim=16, **more),
    "r1_asa": write_r1_asa,
    "deepseek_v3": lambda path, **more: write_deepseek(path, **more),
    "deepseek_v2": lambda path, **more: write_deepseek(path, "DeepseekV2ForCausalLM", **more),
}

# As the publishers' model cards and safetensors indexes have them.
PUBLISHED = {
    "r1-distill-qwen-1.5b": 1_777_088_000,
    "r1-distill-qwen-7b": 7_615_616_512,
    "r1-distill-qwen-14b": 14_770_033_664,
    "r1-distill-qwen-32b": 32_763_876_352,
    "r1-distill-llama-8b": 8_030_261_248,
    "r1-distill-llama-70b": 70_553_706_496,
    "r1-70b": 70_553_706_496,
    "r1-671b": 671_026_419_200,  # without the layer that predicts a further token
    "v2-lite": 15_706_484_224,
    "smollm2-135m": 134_515_008,
    "mistral-7b": 7_248_023_552,
    "qwen3-8b": 8_190_735_360,
}


@pytest.mark.parametrize("family", WRITERS)
def test_parameters_and_bytes_are_those_of_the_files(family: str, tmp_path: Path) -> None:
    checkpoint = WRITERS[family](tmp_path / "model", dtype="bfloat16")
    model = sized_model(str(checkpoint))
    header = read_safetensors_header(checkpoint, "model.safetensors")
    elements = sum(torch.Size(tensor.shape).numel() for tensor in header.tensors)
    assert model.has_weights and parameters(model) == elements
    assert sum(model.stored_bytes.values()) == sum(tensor.length for tensor in header.tensors)
    data = header.file_bytes - min(tensor.offset for tensor in header.tensors)
    assert sum(model.stored_bytes.values()) == data


@pytest.mark.parametrize("family", WRITERS)
def test_a_configuration_alone_counts_the_same(family: str, tmp_path: Path) -> None:
    checkpoint = WRITERS[family](tmp_path / "model", dtype="bfloat16")
    model, alone = sized_model(str(checkpoint)), sized_model(str(checkpoint / "config.json"))
    assert not alone.has_weights
    assert parameters(alone) == parameters(model)
    if family != "r1_asa":  # whose config.json has no type of the weights
        assert alone.stored_bytes == model.stored_bytes


def test_known_models_have_their_published_counts() -> None:
    assert {name: parameters(sized_model(name)) for name in KNOWN_MODELS} == PUBLISHED


@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_known_models_count_as_transformers_counts(name: str) -> None:
    raw = dict(KNOWN_MODELS[name])
    architecture = raw["architectures"][0]
    config = getattr(transformers, architecture.replace("ForCausalLM", "Config"))(**raw)
    with torch.device("meta"):
        module = getattr(transformers, architecture)(config)
    # A router's correction bias is a tensor of the checkpoint, and a buffer there.
    biases = [b for buffer, b in module.named_buffers() if buffer.endswith("e_score_correction_bias")]
    assert parameters(sized_model(name)) == module.num_parameters() + sum(bias.numel() for bias in biases)


def moe(**overrides: Any) -> dict[str, Any]:
    return r1_asa_raw_config(num_experts=8, top_k=2, moe_intermediate_size=32, hidden_size=64, **overrides)


def test_a_token_leaves_experts_idle() -> None:
    model = sized_model_from_config("moe", moe(), where=Path("config.json"))
    # Two layers, each with six of eight experts idle: gate, up and down of 32 x 64.
    assert parameters(model) - active_parameters(model) == 2 * 6 * 3 * 32 * 64


def test_dense_layers_and_shared_experts_are_active() -> None:
    raw = moe(
        first_k_dense_replace=1, intermediate_size=96, num_shared_experts=1, shared_intermediate_size=16
    )
    model = sized_model_from_config("moe", raw, where=Path("config.json"))
    assert parameters(model) - active_parameters(model) == 6 * 3 * 32 * 64
    assert active_parameters(sized_model("smollm2-135m")) == parameters(sized_model("smollm2-135m"))
