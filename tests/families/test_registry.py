from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from families.family_checks import assert_refused, raw_config, read

import r1trt.families
from r1trt.errors import ConfigError
from r1trt.families import families, family_of

LLAMA = raw_config("LlamaForCausalLM", "llama")

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"architectures": ["PhiForCausalLM"]}, "PhiForCausalLM"),
    ({"architectures": None, "model_type": "phi"}, "does not name one architecture"),
    ({"architectures": [], "model_type": None}, "does not name one architecture"),
    ({"architectures": ["LlamaForCausalLM", "Qwen2ForCausalLM"]}, "does not name one architecture"),
    ({"architectures": "LlamaForCausalLM"}, "does not name one architecture"),
    ({"model_type": "qwen2"}, "model_type contradicts"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantized checkpoints"),
    ({"hidden_act": "gelu"}, "activation is not implemented"),
    ({"vocab_size": None}, "lacks 'vocab_size'"),
    ({"rms_norm_eps": None}, "lacks 'rms_norm_eps'"),
    ({"intermediate_size": None}, "lacks 'intermediate_size'"),
    ({"max_position_embeddings": None}, "lacks 'max_position_embeddings'"),
    ({"hidden_size": "32"}, "not an integer"),
    ({"hidden_size": 32.0}, "not an integer"),
    ({"num_hidden_layers": True}, "not an integer"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is not a usable size"),
    ({"num_hidden_layers": -1}, "num_hidden_layers is not a usable size"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers is not a usable size"),
    ({"vocab_size": 10**12}, "vocab_size is not a usable size"),
    ({"hidden_size": -32, "head_dim": 8}, "hidden_size is not a usable size"),
    ({"num_attention_heads": 0}, "head_dim is not given"),
    ({"num_attention_heads": 5}, "head_dim is not given"),
    ({"num_key_value_heads": 3}, "do not share"),
    ({"num_key_value_heads": 0}, "num_key_value_heads is not a usable size"),
    ({"head_dim": 7}, "rotates pairs"),
    ({"rms_norm_eps": 0}, "rms_norm_eps is not a usable number"),
    ({"rms_norm_eps": "1e-5"}, "not a number"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps is not a usable number"),
    ({"rms_norm_eps": 10**400}, "far too large"),
    ({"tie_word_embeddings": 1}, "not a boolean"),
    ({"eos_token_id": "x"}, "eos_token_id"),
    ({"eos_token_id": [1, True]}, "eos_token_id"),
    ({"eos_token_id": 100}, "eos_token_id"),
    ({"eos_token_id": -1}, "eos_token_id"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refused_with_the_files_name(changes: dict[str, Any], message: str) -> None:
    assert_refused(LLAMA, changes, message)


@pytest.mark.parametrize("named", [None, []])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
def test_a_model_type_alone_has_one_architecture(name: str, named: object) -> None:
    [architecture] = [family.architecture for family in families().values() if family.name == name]
    raw, notes = raw_config(architecture, name), list[str]()
    assert read(raw, notes=notes, architectures=named) == read(raw)
    assert notes == [f"config.json names no architecture: model_type {name!r} is {architecture}."]


def test_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        read(LLAMA, architectures=["MambaForCausalLM"])
    for known in families():
        assert known in caught.value.details["expected"]


def test_every_file_of_a_family_is_found() -> None:
    folder = Path(r1trt.families.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if "FAMILY = Family(" in path.read_text()}
    assert {family.name for family in families().values()} == files >= {"llama", "qwen2", "r1_asa"}


def test_the_documents_table_has_a_row_for_every_family() -> None:
    page = (Path(r1trt.families.__file__).parents[2] / "docs" / "models.md").read_text()
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert rows == sorted(families())


def test_a_configuration_knows_its_family() -> None:
    config = read(LLAMA)
    assert (config.family, config.architecture) == ("llama", "LlamaForCausalLM")
    assert family_of(config).in_transformers
