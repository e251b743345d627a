from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from r1trt.config import DenseConfig, HlaConfig, ModelConfig, MoeConfig, RopeConfig
from r1trt.errors import ConfigError
from r1trt.families import model_config_from_dict

WHERE = Path("somewhere/config.json")

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
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
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
R1_ASA: dict[str, Any] = {
    **{key: value for key, value in LLAMA.items() if key not in ("intermediate_size", "hidden_act")},
    "architectures": ["R1AsaForCausalLM"],
    "model_type": "r1_asa",
    "num_experts": 8,
    "moe_intermediate_size": 16,
}
BASES = {"llama": LLAMA, "qwen2": QWEN2, "r1_asa": R1_ASA}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 1024}


def read(raw: dict[str, Any], **changes: Any) -> Any:
    return model_config_from_dict({**raw, **changes}, where=WHERE)


def only_layer(config: ModelConfig) -> tuple[Any, Any]:
    """Attention and MLP of a model whose layers are all alike."""
    (layer,) = set(config.layers)
    return layer.attention, layer.mlp


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


def test_qwen2_has_qkv_biases_alone() -> None:
    config = read(QWEN2, eos_token_id=5, tie_word_embeddings=True)
    attention, mlp = only_layer(config)
    assert (attention.qkv_bias, attention.o_bias, mlp.bias) == (True, False, False)
    assert config.eos_token_ids == (5,)
    assert config.tie_word_embeddings


def test_r1_asa_defaults() -> None:
    config = read(R1_ASA)
    attention, mlp = only_layer(config)
    assert mlp == MoeConfig(
        num_experts=8,
        expert_width=16,
        shared_width=0,
        scoring="softmax",
        topk_method="greedy",
        top_k=2,
        top_k_min=1,
        adaptive_threshold=1.0,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        n_group=1,
        topk_group=1,
    )
    assert attention.hla == HlaConfig(block_size=32, inter_block="first_to_first", lam_skip=0.0, gate=True)
    assert (config.rope.temperature_alpha, config.rope.original_max_position) == (0.1, 4096)
    assert (attention.qkv_bias, attention.o_bias) == (False, False)
    assert config.num_layers == 3 and not config.is_continuous


def test_r1_asa_options() -> None:
    config = read(
        R1_ASA,
        num_shared_experts=2,
        shared_intermediate_size=24,
        scoring="sigmoid",
        n_group=4,
        topk_group=2,
        top_k=3,
        adaptive_threshold=0.9,
        first_k_dense_replace=1,
        intermediate_size=40,
        hla_gate=False,
        hla_inter_block="all_to_first",
        rope_temperature_alpha=0.2,
        original_max_position_embeddings=512,
    )
    dense, first, second = (layer.mlp for layer in config.layers)
    assert dense == DenseConfig(width=40)
    assert first == second
    assert (first.shared_width, first.scoring, first.topk_method) == (24, "sigmoid", "noaux_tc")
    assert {layer.attention.hla for layer in config.layers} == {
        HlaConfig(inter_block="all_to_first", gate=False)
    }
    assert (config.rope.temperature_alpha, config.rope.original_max_position) == (0.2, 512)


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({}, "greedy"),
        ({"scoring": "sigmoid"}, "noaux_tc"),
        ({"n_group": 2}, "noaux_tc"),
    ],
)
def test_topk_method(changes: dict[str, Any], method: str) -> None:
    assert only_layer(read(R1_ASA, **changes))[1].topk_method == method


def test_temperature_belongs_to_r1_asa_alone() -> None:
    config = read(LLAMA, rope_temperature_alpha=0.3)
    assert (config.rope.temperature_alpha, config.rope.original_max_position) == (0.0, 0)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_theta": 5e5},
        {"rope_scaling": {"type": "llama3", **LLAMA3}, "rope_theta": 500000},
        {"rope_scaling": {"type": "llama3", "rope_type": "llama3", **LLAMA3}, "rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "llama3", **LLAMA3}, "rope_scaling": None, "rope_theta": 5e5},
    ],
)
def test_rope_spellings_mean_the_same(spelling: dict[str, Any]) -> None:
    rope = read(LLAMA, **spelling).rope
    assert rope == RopeConfig(kind="llama3", theta=5e5, rotary_dim=8, parameters=LLAMA3)


def test_rope_lengths_come_from_the_top_level() -> None:
    yarn = read(LLAMA, rope_scaling={"type": "yarn", **YARN}).rope
    assert yarn.parameters == {**YARN, "max_position_embeddings": 4096}
    dynamic = read(LLAMA, rope_scaling={"type": "dynamic", "factor": 2.0}).rope
    assert dynamic.parameters == {"factor": 2.0, "max_position_embeddings": 4096}
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    longrope = read(
        LLAMA, rope_scaling={"type": "longrope", **factors}, original_max_position_embeddings=1024
    ).rope
    assert longrope.parameters["original_max_position_embeddings"] == 1024


def test_partial_rotation_of_r1_asa() -> None:
    assert read(R1_ASA, rope_parameters={"partial_rotary_factor": 0.5}).rope.rotary_dim == 4


def test_config_survives_pickle_and_asdict() -> None:
    config = read(R1_ASA, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, **YARN})
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.asdict(config)["rope"]["parameters"]["factor"] == 4.0


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"architectures": ["DeepseekV3ForCausalLM"]}, "DeepseekV3ForCausalLM"),
    ("llama", {"architectures": None}, "does not name one architecture"),
    ("llama", {"architectures": []}, "does not name one architecture"),
    ("llama", {"architectures": ["LlamaForCausalLM", "Qwen2ForCausalLM"]}, "does not name one architecture"),
    ("llama", {"architectures": "LlamaForCausalLM"}, "does not name one architecture"),
    ("llama", {"model_type": "qwen2"}, "model_type contradicts"),
    ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantized checkpoints"),
    ("llama", {"hidden_act": "gelu"}, "activation is not implemented"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, "sliding-window"),
    ("qwen2", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types"),
    ("qwen2", {"num_key_value_heads": None}, "lacks 'num_key_value_heads'"),
    ("llama", {"vocab_size": None}, "lacks 'vocab_size'"),
    ("llama", {"rms_norm_eps": None}, "lacks 'rms_norm_eps'"),
    ("llama", {"intermediate_size": None}, "lacks 'intermediate_size'"),
    ("llama", {"max_position_embeddings": None}, "lacks 'max_position_embeddings'"),
    ("llama", {"hidden_size": "32"}, "not an integer"),
    ("llama", {"hidden_size": 32.0}, "not an integer"),
    ("llama", {"num_hidden_layers": True}, "not an integer"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers is not a usable size"),
    ("llama", {"num_hidden_layers": -1}, "num_hidden_layers is not a usable size"),
    ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is not a usable size"),
    ("llama", {"vocab_size": 10**12}, "vocab_size is not a usable size"),
    ("llama", {"hidden_size": -32, "head_dim": 8}, "hidden_size is not a usable size"),
    ("llama", {"num_attention_heads": 0}, "head_dim is not given"),
    ("llama", {"num_attention_heads": 5}, "head_dim is not given"),
    ("llama", {"num_key_value_heads": 3}, "do not share"),
    ("llama", {"num_key_value_heads": 0}, "num_key_value_heads is not a usable size"),
    ("llama", {"head_dim": 7}, "rotates pairs"),
    ("llama", {"rms_norm_eps": 0}, "rms_norm_eps is not a usable number"),
    ("llama", {"rms_norm_eps": "1e-5"}, "not a number"),
    ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps is not a usable number"),
    ("llama", {"rms_norm_eps": 10**400}, "far too large"),
    ("llama", {"tie_word_embeddings": 1}, "not a boolean"),
    ("llama", {"eos_token_id": "x"}, "eos_token_id"),
    ("llama", {"eos_token_id": [1, True]}, "eos_token_id"),
    ("llama", {"eos_token_id": 100}, "eos_token_id"),
    ("llama", {"eos_token_id": -1}, "eos_token_id"),
    ("llama", {"rope_theta": -1.0}, "rope_theta"),
    ("llama", {"rope_theta": 10**400}, "rope_theta"),
    ("llama", {"rope_theta": "big"}, "rope_theta"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llama", {"rope_scaling": {"type": "su", "factor": 2.0}}, "RoPE type"),
    ("llama", {"rope_scaling": {"type": 3}}, "RoPE's type"),
    ("llama", {"rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 2.0}}, "RoPE's type"),
    ("llama", {"rope_scaling": "yarn"}, "not an object"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "lacks parameters"),
    (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}},
        "unknown parameters",
    ),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": "2"}}, "factor"),
    ("llama", {"rope_scaling": {"type": "llama3", **LLAMA3, "high_freq_factor": 1.0}}, "no bands"),
    (
        "llama",
        {"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}},
        "short_factor",
    ),
    ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differs between layers"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2.0}},
        "contradicts",
    ),
    ("llama", {"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 1e6}, "given twice"),
    ("r1_asa", {"hla_blocksize": 16}, "unknown R1-ASA keys"),
    ("r1_asa", {"topk_method": "greedy"}, "unknown R1-ASA keys"),
    ("r1_asa", {"attention_bias": True}, "attention_bias"),
    ("r1_asa", {"num_experts": None}, "lacks 'num_experts'"),
    ("r1_asa", {"num_experts": 10**6}, "num_experts"),
    ("r1_asa", {"num_experts": 4096, "num_hidden_layers": 1000}, "number of experts in all layers"),
    ("r1_asa", {"top_k": 9}, "top_k is not"),
    ("r1_asa", {"top_k_min": 3}, "top_k_min"),
    ("r1_asa", {"adaptive_threshold": 0.0}, "adaptive_threshold"),
    ("r1_asa", {"scoring": "tanh"}, "scoring"),
    ("r1_asa", {"n_group": 3}, "equal groups"),
    ("r1_asa", {"n_group": 8}, "two highest"),
    ("r1_asa", {"n_group": 4, "topk_group": 5}, "topk_group"),
    ("r1_asa", {"n_group": 4, "topk_group": 1, "top_k": 3}, "fewer experts than top_k"),
    ("r1_asa", {"num_shared_experts": 1}, "lacks 'shared_intermediate_size'"),
    ("r1_asa", {"num_shared_experts": -1}, "num_shared_experts"),
    ("r1_asa", {"first_k_dense_replace": 4, "intermediate_size": 40}, "first_k_dense_replace"),
    ("r1_asa", {"first_k_dense_replace": 1}, "lacks 'intermediate_size'"),
    ("r1_asa", {"hla_block_size": 0}, "hla_block_size"),
    ("r1_asa", {"hla_inter_block": "none"}, "hla_inter_block"),
    ("r1_asa", {"hla_lam_skip": 0.5}, "hla_lam_skip"),
    ("r1_asa", {"hla_gate": "yes"}, "not a boolean"),
    ("r1_asa", {"rope_temperature_alpha": -0.1}, "rope_temperature_alpha"),
    ("r1_asa", {"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
    ("r1_asa", {"original_max_position_embeddings": "4"}, "original_max_position_embeddings"),
]


@pytest.mark.parametrize(
    ("family", "changes", "message"), REFUSED, ids=[f"{f}-{m}-{i}" for i, (f, _, m) in enumerate(REFUSED)]
)
def test_refused_with_the_files_name(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(BASES[family], **changes)
    assert message in str(caught.value)
    assert caught.value.details["where"] == str(WHERE)
    assert "expected" in caught.value.details


def test_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        read(LLAMA, architectures=["MambaForCausalLM"])
    for known in ("LlamaForCausalLM", "Qwen2ForCausalLM", "R1AsaForCausalLM"):
        assert known in caught.value.details["expected"]


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


@pytest.mark.parametrize("base", BASES)
def test_no_single_damaged_key_ends_in_another_exception(base: str) -> None:
    damage = [None, True, -1, 0, 1.5, 10**400, "x", [], [None], {}, {"a": {}}, float("inf")]
    extras = {"rope_scaling": {"type": "yarn", **YARN}, "eos_token_id": 3, "head_dim": 8, "layer_types": None}
    raw = {**BASES[base], **extras}
    for key in raw:
        for value in damage:
            try:
                read(raw, **{key: value})
            except ConfigError as error:
                assert error.details["where"] == str(WHERE)
