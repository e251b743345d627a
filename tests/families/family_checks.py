"""What every family has to hold: configurations, tensors, agreement with `transformers`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from r1trt.config import ModelConfig
from r1trt.errors import ConfigError
from r1trt.families import expected_tensors, model_config_from_dict
from r1trt.model import load_checkpoint

WHERE = Path("somewhere/config.json")
SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
# Keys that most files have, each to be damaged too.
MORE_KEYS: dict[str, Any] = {
    "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    "eos_token_id": 3,
    "head_dim": 8,
    "layer_types": None,
}
DAMAGE = [None, True, -1, 0, 1.5, 10**400, "x", [], [None], {}, {"a": {}}, float("inf")]


def raw_config(architecture: str, model_type: str, **keys: Any) -> dict[str, Any]:
    """A config.json dict of three small layers."""
    return {**SIZES, "architectures": [architecture], "model_type": model_type, **keys}


def read(raw: dict[str, Any], *, notes: list[str] | None = None, **changes: Any) -> ModelConfig:
    """The configuration that a config.json dict with some changed keys means."""
    return model_config_from_dict({**raw, **changes}, where=WHERE, notes=notes)


def only_layer(config: ModelConfig) -> tuple[Any, Any]:
    """Attention and MLP of a model whose layers are all alike."""
    (layer,) = set(config.layers)
    return layer.attention, layer.mlp


def assert_refused(raw: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    """The changed keys are refused with this message, the file's name, and what was expected."""
    with pytest.raises(ConfigError) as caught:
        read(raw, **changes)
    assert message in str(caught.value)
    assert caught.value.details["where"] == str(WHERE)
    assert "expected" in caught.value.details


def assert_damage_is_refused(raw: dict[str, Any]) -> None:
    """No single damaged key ends in another exception than a refusal with the file's name."""
    raw = {**MORE_KEYS, **raw}
    for key in raw:
        for value in DAMAGE:
            try:
                read(raw, **{key: value})
            except ConfigError as error:
                assert error.details["where"] == str(WHERE)


def assert_tensors_are_those_of_transformers(raw: dict[str, Any]) -> None:
    """The table names what the class of `transformers` has, in its shapes."""
    (architecture,) = raw["architectures"]
    config_class = getattr(transformers, architecture.replace("ForCausalLM", "Config"))
    model = getattr(transformers, architecture)(config_class(**raw))
    state = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if raw.get("tie_word_embeddings"):
        del state["lm_head.weight"]
    assert expected_tensors(read(raw)) == state


def parameters(raw: dict[str, Any]) -> int:
    """Number of parameters that the table of tensors adds up to."""
    return sum(math.prod(shape) for shape in expected_tensors(read(raw)).values())


@torch.no_grad()
def assert_module_equals_transformers(checkpoint: Path) -> None:
    """The PyTorch reference computes the model too."""
    module = load_checkpoint(checkpoint)
    ids = torch.randint(0, module.config.vocab_size, (2, 100), generator=torch.Generator().manual_seed(0))
    theirs = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    )
    expected = theirs(ids).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(module(ids), expected, atol=2e-5, rtol=0)
