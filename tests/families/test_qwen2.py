from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export.agreement import assert_export_equals_transformers
from families.family_checks import (
    assert_damage_is_refused,
    assert_module_equals_transformers,
    assert_refused,
    assert_tensors_are_those_of_transformers,
    only_layer,
    raw_config,
    read,
)
from tiny_checkpoints import write_qwen2

QWEN2 = raw_config("Qwen2ForCausalLM", "qwen2")


def test_qwen2_has_qkv_biases_alone() -> None:
    config = read(QWEN2, eos_token_id=5, tie_word_embeddings=True)
    attention, mlp = only_layer(config)
    assert (attention.qkv_bias, attention.o_bias, mlp.bias) == (True, False, False)
    assert config.eos_token_ids == (5,)
    assert config.tie_word_embeddings


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, "sliding-window"),
    ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types"),
    ({"num_key_value_heads": None}, "lacks 'num_key_value_heads'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refused(changes: dict[str, Any], message: str) -> None:
    assert_refused(QWEN2, changes, message)


def test_damage_is_refused() -> None:
    assert_damage_is_refused(QWEN2)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1},
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3},
        {"use_sliding_window": True, "sliding_window": None},
    ],
)
def test_sliding_window_that_reaches_no_layer_is_accepted(changes: dict[str, Any]) -> None:
    assert read(QWEN2, **changes).family == "qwen2"


def test_tensors() -> None:
    assert_tensors_are_those_of_transformers({**QWEN2, "eos_token_id": 3})


@pytest.mark.parametrize("options", [{}, {"old_rope_spelling": True}])
def test_export(options: dict[str, Any], tmp_path: Path) -> None:
    assert_export_equals_transformers(write_qwen2(tmp_path / "checkpoint", **options), tmp_path / "export")


def test_module(tmp_path: Path) -> None:
    assert_module_equals_transformers(write_qwen2(tmp_path))
