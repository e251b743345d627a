from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export.agreement import assert_export_equals_transformers
from families.family_builds import assert_cpu_engine_generates, assert_fp8_engine_obeys_its_plan
from families.family_checks import (
    assert_damage_is_refused,
    assert_module_equals_transformers,
    assert_refused,
    assert_tensors_are_those_of_transformers,
    only_layer,
    parameters,
    raw_config,
    read,
)
from tiny_checkpoints import write_transformers

ARCHITECTURE = "Qwen3ForCausalLM"
QWEN3 = raw_config(ARCHITECTURE, "qwen3", head_dim=16)
NORMS = [f"model.layers.{layer}.self_attn.{which}_norm" for layer in (0, 1) for which in ("q", "k")]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True},
    "narrow-heads": {"head_dim": 8},
    "bfloat16": {"dtype": "bfloat16"},
    "old-rope-spelling": {"old_rope_spelling": True},
}


def write(directory: Path, **options: Any) -> Path:
    return write_transformers(directory, ARCHITECTURE, **{"head_dim": 32, **options})


def test_heads_have_norms() -> None:
    config = read(QWEN3, eos_token_id=5)
    attention, mlp = only_layer(config)
    assert attention.qk_norm and attention.head_dim == 16 and attention.window is None
    assert (attention.qkv_bias, attention.o_bias, mlp.bias) == (False, False, False)
    attention, _ = only_layer(read(QWEN3, attention_bias=True))
    assert (attention.qkv_bias, attention.o_bias) == (True, True)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"head_dim": None}, "lacks 'head_dim'"),
    ({"num_key_value_heads": None}, "lacks 'num_key_value_heads'"),
    ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, "sliding-window"),
    ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types"),
    ({"model_type": "qwen2"}, "model_type contradicts"),
    ({"attention_bias": "yes"}, "not a boolean"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refused(changes: dict[str, Any], message: str) -> None:
    assert_refused(QWEN3, changes, message)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1},
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3},
        {"use_sliding_window": True, "sliding_window": None},
    ],
)
def test_sliding_window_that_reaches_no_layer_is_accepted(changes: dict[str, Any]) -> None:
    assert only_layer(read(QWEN3, **changes))[0].window is None


def test_damage_is_refused() -> None:
    assert_damage_is_refused({**QWEN3, "attention_bias": True})


@pytest.mark.parametrize("keys", [{}, {"attention_bias": True}, {"tie_word_embeddings": True}])
def test_tensors(keys: dict[str, Any]) -> None:
    assert_tensors_are_those_of_transformers({**QWEN3, **keys})


def test_qwen3_0_6b() -> None:
    """Its own config.json, and the number of parameters that it is published with."""
    raw = {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "model_type": "qwen3",
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    }
    assert parameters(raw) == 596_049_920


@pytest.mark.parametrize("name", CASES)
def test_export(name: str, tmp_path: Path) -> None:
    assert_export_equals_transformers(write(tmp_path / "checkpoint", **CASES[name]), tmp_path / "export")


def test_module(tmp_path: Path) -> None:
    assert_module_equals_transformers(write(tmp_path, attention_bias=True))


def test_cpu_engine(tmp_path: Path) -> None:
    assert_cpu_engine_generates(write(tmp_path / "checkpoint", tokenizer=True), tmp_path)


def test_fp8_engine(tmp_path: Path) -> None:
    """The plan names the norms of q and k, and the network obeys it there too."""
    assert_fp8_engine_obeys_its_plan(write(tmp_path / "checkpoint", tokenizer=True), tmp_path, NORMS)
