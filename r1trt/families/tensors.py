"""The tensors of each model family: one row a weight, names and shapes as Hugging Face checkpoints have them.

Symbols of the shapes: V vocabulary, D hidden size, H query heads, Q query heads x head size, KV key/value
heads x head size, F dense MLP width, E experts, M width of one expert, Ms width of all shared experts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from r1trt.config import Family, ModelConfig

WEIGHT_DTYPES = ("F32", "BF16", "F16")
"""dtypes of weights that an export accepts."""

Condition = Callable[[ModelConfig, int], bool]


def _always(config: ModelConfig, layer: int) -> bool:
    return True


def _untied(config: ModelConfig, layer: int) -> bool:
    return not config.tie_word_embeddings


def _tied(config: ModelConfig, layer: int) -> bool:
    return config.tie_word_embeddings


def _qkv_bias(config: ModelConfig, layer: int) -> bool:
    return config.qkv_bias


def _o_bias(config: ModelConfig, layer: int) -> bool:
    return config.o_bias


def _gated(config: ModelConfig, layer: int) -> bool:
    return config.hla.gate


def _dense(config: ModelConfig, layer: int) -> bool:
    return not config.is_moe_layer(layer)


def _dense_bias(config: ModelConfig, layer: int) -> bool:
    return config.mlp_bias and not config.is_moe_layer(layer)


def _moe(config: ModelConfig, layer: int) -> bool:
    return config.is_moe_layer(layer)


def _moe_sigmoid(config: ModelConfig, layer: int) -> bool:
    return config.is_moe_layer(layer) and config.moe is not None and config.moe.scoring == "sigmoid"


def _moe_shared(config: ModelConfig, layer: int) -> bool:
    return config.is_moe_layer(layer) and config.moe is not None and config.moe.shared_width > 0


@dataclass(frozen=True)
class WeightRow:
    """One weight, or one of every layer or expert.

    Attributes:
        pattern: The tensor's name; `{layer}` and `{expert}` stand for every index.
        shape: Symbols of its dimensions.
        when: Says whether a model (and layer) has it.
    """

    pattern: str
    shape: tuple[str, ...]
    when: Condition = _always


LAYER = "model.layers.{layer}."
ATTENTION = LAYER + "self_attn."
MLP = LAYER + "mlp."
EXPERT = MLP + "experts.{expert}."
SHARED = MLP + "shared_expert."

_ENDS = (
    WeightRow("model.embed_tokens.weight", ("V", "D")),
    WeightRow("model.norm.weight", ("D",)),
    WeightRow("lm_head.weight", ("V", "D"), _untied),
)
_ATTENTION = (
    WeightRow(LAYER + "input_layernorm.weight", ("D",)),
    WeightRow(ATTENTION + "q_proj.weight", ("Q", "D")),
    WeightRow(ATTENTION + "k_proj.weight", ("KV", "D")),
    WeightRow(ATTENTION + "v_proj.weight", ("KV", "D")),
    WeightRow(ATTENTION + "o_proj.weight", ("D", "Q")),
    WeightRow(LAYER + "post_attention_layernorm.weight", ("D",)),
)
_QKV_BIASES = (
    WeightRow(ATTENTION + "q_proj.bias", ("Q",), _qkv_bias),
    WeightRow(ATTENTION + "k_proj.bias", ("KV",), _qkv_bias),
    WeightRow(ATTENTION + "v_proj.bias", ("KV",), _qkv_bias),
)
_DENSE_MLP = (
    WeightRow(MLP + "gate_proj.weight", ("F", "D"), _dense),
    WeightRow(MLP + "up_proj.weight", ("F", "D"), _dense),
    WeightRow(MLP + "down_proj.weight", ("D", "F"), _dense),
)
_LLAMA_BIASES = (
    WeightRow(ATTENTION + "o_proj.bias", ("D",), _o_bias),
    WeightRow(MLP + "gate_proj.bias", ("F",), _dense_bias),
    WeightRow(MLP + "up_proj.bias", ("F",), _dense_bias),
    WeightRow(MLP + "down_proj.bias", ("D",), _dense_bias),
)
_LAM_GATE = (
    WeightRow(ATTENTION + "lam_gate.weight", ("H", "D"), _gated),
    WeightRow(ATTENTION + "lam_gate.bias", ("H",), _gated),
)
_EXPERTS = (
    WeightRow(MLP + "router.weight", ("E", "D"), _moe),
    WeightRow(MLP + "router.e_score_correction_bias", ("E",), _moe_sigmoid),
    WeightRow(EXPERT + "gate_proj.weight", ("M", "D"), _moe),
    WeightRow(EXPERT + "up_proj.weight", ("M", "D"), _moe),
    WeightRow(EXPERT + "down_proj.weight", ("D", "M"), _moe),
    WeightRow(SHARED + "gate_proj.weight", ("Ms", "D"), _moe_shared),
    WeightRow(SHARED + "up_proj.weight", ("Ms", "D"), _moe_shared),
    WeightRow(SHARED + "down_proj.weight", ("D", "Ms"), _moe_shared),
)

WEIGHTS: Mapping[Family, tuple[WeightRow, ...]] = {
    "llama": (*_ENDS, *_ATTENTION, *_QKV_BIASES, *_DENSE_MLP, *_LLAMA_BIASES),
    "qwen2": (*_ENDS, *_ATTENTION, *_QKV_BIASES, *_DENSE_MLP),
    "r1_asa": (*_ENDS, *_ATTENTION, *_LAM_GATE, *_DENSE_MLP, *_EXPERTS),
}
"""What a checkpoint must hold."""

_BUFFERS = (
    # Older transformers saved the frequencies, which follow from the config.
    WeightRow(ATTENTION + "rotary_emb.inv_freq", ()),
    WeightRow("model.rotary_emb.inv_freq", ()),
)
_TIED_HEAD = (WeightRow("lm_head.weight", ("V", "D"), _tied),)

IGNORED: Mapping[Family, tuple[WeightRow, ...]] = {
    "llama": (*_BUFFERS, *_TIED_HEAD),
    "qwen2": (*_BUFFERS, *_TIED_HEAD),
    "r1_asa": _TIED_HEAD,
}
"""What it may hold besides, without being used; a row without symbols may have any shape."""


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Lists the tensors that a checkpoint of this configuration must hold.

    Args:
        config: A validated configuration.

    Returns:
        Shapes by tensor name.
    """
    sizes = _sizes(config)
    return {
        name: tuple(sizes[symbol] for symbol in row.shape)
        for row in WEIGHTS[config.family]
        for name in _names(row, config)
    }


def is_ignored(config: ModelConfig, name: str) -> bool:
    """Says whether a tensor is known, and known to be unused by a model of this configuration."""
    for row in IGNORED[config.family]:
        match = re.fullmatch(re.escape(row.pattern).replace(r"\{layer\}", r"(\d{1,6})"), name)
        if match and row.when(config, int(match[1]) if match.groups() else 0):
            return True
    return False


def _sizes(config: ModelConfig) -> dict[str, int]:
    moe = config.moe
    return {
        "V": config.vocab_size,
        "D": config.hidden_size,
        "Q": config.num_heads * config.head_dim,
        "KV": config.num_kv_heads * config.head_dim,
        "H": config.num_heads,
        "F": config.intermediate_size,
        "E": moe.num_experts if moe else 0,
        "M": moe.expert_width if moe else 0,
        "Ms": moe.shared_width if moe else 0,
    }


def _names(row: WeightRow, config: ModelConfig) -> Iterator[str]:
    if "{layer}" not in row.pattern:
        if row.when(config, 0):
            yield row.pattern
        return
    experts = config.moe.num_experts if config.moe and "{expert}" in row.pattern else 1
    for layer in range(config.num_layers):
        if row.when(config, layer):
            for expert in range(experts):
                yield row.pattern.format(layer=layer, expert=expert)
