from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export.agreement import assert_export_equals_transformers
from families.family_checks import (
    assert_damage_is_refused,
    assert_module_equals_transformers,
    assert_tensors_are_those_of_transformers,
    only_layer,
    raw_config,
    read,
)
from tiny_checkpoints import LLAMA3_ROPE, write_llama

from r1trt.config import DenseConfig, HlaConfig, RopeConfig

LLAMA = raw_config("LlamaForCausalLM", "llama")
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "llama3-rope": {"rope": LLAMA3_ROPE},
    "old-rope-spelling": {"rope": LLAMA3_ROPE, "old_rope_spelling": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide-heads": {"head_dim": 32},
    "sharded": {"max_shard_size": "50KB"},
    "bfloat16": {"dtype": "bfloat16"},
    "yarn": {"rope": YARN},
    "linear": {"rope": {"rope_type": "linear", "factor": 2.0}},
}


def test_llama() -> None:
    config = read(LLAMA, eos_token_id=[7, 8, 7])
    assert (config.family, config.architecture) == ("llama", "LlamaForCausalLM")
    attention, mlp = only_layer(config)
    assert config.num_layers == 3
    assert (attention.num_heads, attention.num_kv_heads, attention.head_dim) == (4, 2, 8)
    assert (attention.qkv_bias, attention.o_bias, mlp.bias) == (False, False, False)
    assert config.eos_token_ids == (7, 8)
    assert config.rope == RopeConfig(kind="default", theta=10000.0, rotary_dim=8)
    assert attention.hla == HlaConfig(gate=False)
    assert (attention.qk_norm, attention.window) == (False, None)
    assert mlp == DenseConfig(width=48) and config.is_continuous
    attention, mlp = only_layer(read(LLAMA, attention_bias=True, mlp_bias=True, head_dim=16))
    assert (attention.qkv_bias, attention.o_bias, mlp.bias, attention.head_dim) == (True, True, True, 16)


def test_damage_is_refused() -> None:
    assert_damage_is_refused(LLAMA)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"attention_bias": True, "mlp_bias": True, "head_dim": 6},
        {"tie_word_embeddings": True},
    ],
)
def test_tensors(keys: dict[str, Any]) -> None:
    assert_tensors_are_those_of_transformers({**LLAMA, "eos_token_id": 3, **keys})


@pytest.mark.parametrize("name", CASES)
def test_export(name: str, tmp_path: Path) -> None:
    assert_export_equals_transformers(
        write_llama(tmp_path / "checkpoint", **CASES[name]), tmp_path / "export"
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"tie_word_embeddings": True}, {"rope": LLAMA3_ROPE, "attention_bias": True, "mlp_bias": True}],
)
def test_module(options: dict[str, Any], tmp_path: Path) -> None:
    assert_module_equals_transformers(write_llama(tmp_path, **options))
