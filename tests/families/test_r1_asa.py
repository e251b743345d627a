from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from families.family_checks import (
    SIZES,
    assert_damage_is_refused,
    assert_refused,
    only_layer,
    raw_config,
    read,
)

from r1trt.config import DenseConfig, HlaConfig, MoeConfig
from r1trt.families import family_of

R1_ASA: dict[str, Any] = {
    **{key: value for key, value in SIZES.items() if key not in ("intermediate_size", "hidden_act")},
    "architectures": ["R1AsaForCausalLM"],
    "model_type": "r1_asa",
    "num_experts": 8,
    "moe_intermediate_size": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}


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
    config = read(raw_config("LlamaForCausalLM", "llama"), rope_temperature_alpha=0.3)
    assert (config.rope.temperature_alpha, config.rope.original_max_position) == (0.0, 0)


def test_the_library_transformers_does_not_know_it() -> None:
    assert not family_of(read(R1_ASA)).in_transformers


def test_partial_rotation_of_r1_asa() -> None:
    assert read(R1_ASA, rope_parameters={"partial_rotary_factor": 0.5}).rope.rotary_dim == 4


def test_config_survives_pickle_and_asdict() -> None:
    config = read(R1_ASA, rope_parameters={"rope_theta": 1e4, **YARN})
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.asdict(config)["rope"]["parameters"]["factor"] == 4.0


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"hla_blocksize": 16}, "unknown R1-ASA keys"),
    ({"topk_method": "greedy"}, "unknown R1-ASA keys"),
    ({"attention_bias": True}, "attention_bias"),
    ({"num_experts": None}, "lacks 'num_experts'"),
    ({"num_experts": 10**6}, "num_experts"),
    ({"num_experts": 4096, "num_hidden_layers": 1000}, "number of experts in all layers"),
    ({"top_k": 9}, "top_k is not"),
    ({"top_k_min": 3}, "top_k_min"),
    ({"adaptive_threshold": 0.0}, "adaptive_threshold"),
    ({"scoring": "tanh"}, "scoring"),
    ({"n_group": 3}, "equal groups"),
    ({"n_group": 8}, "two highest"),
    ({"n_group": 4, "topk_group": 5}, "topk_group"),
    ({"n_group": 4, "topk_group": 1, "top_k": 3}, "fewer experts than top_k"),
    ({"num_shared_experts": 1}, "lacks 'shared_intermediate_size'"),
    ({"num_shared_experts": -1}, "num_shared_experts"),
    ({"first_k_dense_replace": 4, "intermediate_size": 40}, "first_k_dense_replace"),
    ({"first_k_dense_replace": 1}, "lacks 'intermediate_size'"),
    ({"hla_block_size": 0}, "hla_block_size"),
    ({"hla_inter_block": "none"}, "hla_inter_block"),
    ({"hla_lam_skip": 0.5}, "hla_lam_skip"),
    ({"hla_gate": "yes"}, "not a boolean"),
    ({"rope_temperature_alpha": -0.1}, "rope_temperature_alpha"),
    ({"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
    ({"original_max_position_embeddings": "4"}, "original_max_position_embeddings"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refused(changes: dict[str, Any], message: str) -> None:
    assert_refused(R1_ASA, changes, message)


def test_damage_is_refused() -> None:
    assert_damage_is_refused(
        {**R1_ASA, "rope_scaling": YARN, "eos_token_id": 3, "head_dim": 8, "layer_types": None}
    )
