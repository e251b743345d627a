from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export.agreement import (
    CAPACITY,
    TOLERANCE,
    assert_export_equals_transformers,
    random_prompts,
    relative_error,
    transformers_logits,
)
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
from transformers import MistralConfig

from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.errors import ConfigError
from r1trt.export.export import DEFAULT_CAPACITY, ExportConfig, export_checkpoint

ARCHITECTURE = "MistralForCausalLM"
MISTRAL = raw_config(ARCHITECTURE, "mistral")
CASES: dict[str, dict[str, Any]] = {
    "no-window": {"sliding_window": None},
    "tied": {"tie_word_embeddings": True},
    "wide-heads": {"head_dim": 32},
    "window-of-the-capacity": {"sliding_window": CAPACITY},
    "bfloat16": {"dtype": "bfloat16"},
    "old-rope-spelling": {"old_rope_spelling": True},
}


def write(directory: Path, **options: Any) -> Path:
    return write_transformers(directory, ARCHITECTURE, **options)


def test_no_biases() -> None:
    config = read(MISTRAL, eos_token_id=2, attention_bias=True, mlp_bias=True)
    attention, mlp = only_layer(config)
    assert (attention.num_heads, attention.num_kv_heads, attention.head_dim) == (4, 2, 8)
    assert (attention.qkv_bias, attention.o_bias, mlp.bias, attention.qk_norm) == (False,) * 4


def test_window_is_read_as_transformers_reads_it() -> None:
    """No key means the library's default; null means none."""
    assert read(MISTRAL).window == MistralConfig().sliding_window == 4096
    assert read(MISTRAL, sliding_window=None).window is None
    assert read(MISTRAL, sliding_window=96).window == 96
    for raw in (MISTRAL, {**MISTRAL, "sliding_window": None}, {**MISTRAL, "sliding_window": 96}):
        assert MistralConfig(**raw).sliding_window == read(raw).window


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sliding_window": 0}, "sliding_window is not a usable size"),
    ({"sliding_window": "4096"}, "not an integer"),
    ({"sliding_window": True}, "not an integer"),
    ({"num_key_value_heads": None}, "lacks 'num_key_value_heads'"),
    ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
    ({"model_type": "llama"}, "model_type contradicts"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refused(changes: dict[str, Any], message: str) -> None:
    assert_refused(MISTRAL, changes, message)


def test_damage_is_refused() -> None:
    assert_damage_is_refused({**MISTRAL, "sliding_window": 64})


@pytest.mark.parametrize("keys", [{}, {"head_dim": 6}, {"tie_word_embeddings": True}])
def test_tensors(keys: dict[str, Any]) -> None:
    assert_tensors_are_those_of_transformers({**MISTRAL, **keys})


def test_mistral_7b() -> None:
    """Its first release's config.json, and the number of parameters that it is published with."""
    raw = {
        "architectures": ["MistralForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 32000,
    }
    assert parameters(raw) == 7_241_732_096
    assert read(raw).window == DEFAULT_CAPACITY


@pytest.mark.parametrize("name", CASES)
def test_export(name: str, tmp_path: Path) -> None:
    assert_export_equals_transformers(write(tmp_path / "checkpoint", **CASES[name]), tmp_path / "export")


def test_a_window_that_matters_is_refused(tmp_path: Path) -> None:
    """Sequences of up to 256 tokens, of which a query would see 96."""
    checkpoint = write(tmp_path / "checkpoint", sliding_window=96)
    with pytest.raises(ConfigError, match=r"longer than the window[\s\S]*--max-seq-len 96 or less"):
        export_checkpoint(ExportConfig(checkpoint=checkpoint, output=tmp_path / "export"))
    assert not (tmp_path / "export").exists()
    export_checkpoint(ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=96))
    for options in ({"max_seq_len": 97}, {"cache": False, "max_input_len": 97}):
        config = BuildConfig(model=tmp_path / "export", arch="cpu", output=tmp_path / "engine", **options)
        with pytest.raises(ConfigError, match="longer than the window"):
            build_engine(config)


def test_a_window_changes_what_transformers_computes(tmp_path: Path) -> None:
    """The refusal is not idle: beyond the window the two models differ."""
    checkpoint = write(tmp_path / "checkpoint", sliding_window=16)
    raw = (checkpoint / "config.json").read_text()
    (checkpoint / "config.json").write_text(raw.replace('"sliding_window": 16', '"sliding_window": null'))
    windowed = write(tmp_path / "windowed", sliding_window=16)
    prompt = random_prompts((40,), 320)
    full, narrow = (transformers_logits(path, prompt)[0] for path in (checkpoint, windowed))
    assert relative_error(full[:16], narrow[:16]) < TOLERANCE < 0.01 < relative_error(full[16:], narrow[16:])


def test_module(tmp_path: Path) -> None:
    assert_module_equals_transformers(write(tmp_path))


def test_cpu_engine(tmp_path: Path) -> None:
    assert_cpu_engine_generates(write(tmp_path / "checkpoint", tokenizer=True), tmp_path)


def test_fp8_engine(tmp_path: Path) -> None:
    assert_fp8_engine_obeys_its_plan(write(tmp_path / "checkpoint", tokenizer=True), tmp_path)
