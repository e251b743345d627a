"""`r1trt.rope` against `transformers`' own functions, for every kind that it implements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import yarn_apply_mscale
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from r1trt.config import RopeConfig
from r1trt.errors import ConfigError
from r1trt.families import model_config_from_dict
from r1trt.rope import rope_frequencies, yarn_score_factor

HEAD_DIM = 64
MAX_POSITIONS = 8192
LONG = {"short_factor": list(np.linspace(1, 2, 32)), "long_factor": list(np.linspace(1, 30, 32))}

CASES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096},
    "yarn deepseek": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 0.707,
        "mscale_all_dim": 1.0,
        "beta_fast": 16,
        "beta_slow": 2,
    },
    "yarn not truncated": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 2048,
        "truncate": False,
        "attention_factor": 1.25,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    "longrope": {"rope_type": "longrope", "original_max_position_embeddings": 2048, **LONG},
    "longrope factor": {
        "rope_type": "longrope",
        "original_max_position_embeddings": 2048,
        "factor": 3.0,
        **LONG,
    },
}


def transformers_config(rope: dict[str, Any], theta: float) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={**rope, "rope_theta": theta},
        architectures=["LlamaForCausalLM"],
    )


@pytest.mark.parametrize("max_seq_len", [512, 3000, MAX_POSITIONS, 20000])
@pytest.mark.parametrize("theta", [10000.0, 5e5])
@pytest.mark.parametrize("name", CASES)
def test_frequencies_are_those_of_transformers(name: str, theta: float, max_seq_len: int) -> None:
    theirs = transformers_config(CASES[name], theta)
    config = model_config_from_dict(theirs.to_dict(), where=Path("config.json"))
    kind = config.rope.kind
    if kind == "default":
        expected, expected_factor = LlamaRotaryEmbedding.compute_default_rope_parameters(theirs)
    else:
        expected, expected_factor = ROPE_INIT_FUNCTIONS[kind](
            theirs, torch.device("cpu"), seq_len=max_seq_len
        )

    inv_freq, factor = rope_frequencies(
        config.rope, max_seq_len, max_position_embeddings=config.max_position_embeddings
    )

    assert inv_freq.dtype == np.float32 and inv_freq.shape == (HEAD_DIM // 2,)
    np.testing.assert_allclose(inv_freq, expected.numpy(), rtol=1e-6, atol=0)
    assert factor == pytest.approx(expected_factor, rel=1e-12)


def test_partial_rotation_scales_exponents_with_the_rotary_dimension() -> None:
    inv_freq, _ = rope_frequencies(RopeConfig(kind="default", theta=100.0, rotary_dim=4), 16)
    np.testing.assert_allclose(inv_freq, [1.0, 0.1], rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("factor", [0.5, 1.0, 40.0])
def test_the_factor_of_scores_is_that_of_transformers(name: str, factor: float) -> None:
    rope = {**CASES[name], **({"factor": max(factor, 1.0)} if "factor" in CASES[name] else {})}
    config = model_config_from_dict(transformers_config(rope, 1e4).to_dict(), where=Path("config.json"))
    found = yarn_score_factor(config.rope)
    assert found == pytest.approx(yarn_apply_mscale(rope, 1.0), rel=1e-12)
    assert (found == 1) == (name != "yarn deepseek" or factor <= 1)


def test_without_a_factor_it_follows_from_the_lengths() -> None:
    parameters = {"factor": None, "original_max_position_embeddings": 64, "max_position_embeddings": 640}
    lengths = {**parameters, "mscale_all_dim": 1.0}
    config = RopeConfig(kind="yarn", theta=1e4, rotary_dim=64, parameters=lengths)
    assert yarn_score_factor(config) == pytest.approx((0.1 * np.log(10) + 1) ** 2)


def test_a_missing_context_length_is_named() -> None:
    config = RopeConfig(kind="dynamic", theta=10000.0, rotary_dim=64, parameters={"factor": 2.0})
    with pytest.raises(ConfigError, match="max_position_embeddings"):
        rope_frequencies(config, 64)
