from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from families.deepseek_checks import assert_export_agrees
from families.family_builds import assert_cpu_engine_generates, assert_fp8_engine_obeys_its_plan
from families.family_checks import assert_damage_is_refused, assert_refused, parameters, read
from families.test_deepseek_v3 import V3
from tiny_checkpoints import YARN, write_deepseek

from r1trt.config import MlaConfig, MoeConfig

ARCHITECTURE = "DeepseekV2ForCausalLM"
V2: dict[str, Any] = {
    **V3,
    "architectures": [ARCHITECTURE],
    "model_type": "deepseek_v2",
    "topk_method": "group_limited_greedy",
}
GREEDY = {"topk_method": "greedy", "n_group": 1, "topk_group": 1}
CASES: dict[str, dict[str, Any]] = {
    "best groups": {},
    "best groups, as published": {"hub_spelling": True},
    "greedy": GREEDY,
    "greedy, as published": {**GREEDY, "hub_spelling": True},
    "greedy, groups not read": {"topk_method": "greedy", "n_group": 4, "topk_group": 1},
    "greedy without groups": {"topk_method": "greedy", "n_group": None, "topk_group": None},
    "weights not normalized": {"norm_topk_prob": True, "routed_scaling_factor": 16.0},
    "no low rank of queries": {"q_lora_rank": None, "n_shared_experts": 2, **GREEDY},
    "no YaRN": {"rope": {"rope_type": "default"}},
    "two magnitudes": {"rope": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.2}},
    "one expert a group": {"n_group": 8, "topk_group": 4},
    "64 experts": {"n_routed_experts": 64, "n_group": 8, "topk_group": 3, "num_experts_per_tok": 6},
    "another epsilon": {"rms_norm_eps": 0.3},
    "bfloat16": {"dtype": "bfloat16"},
}


def write(directory: Path, **options: Any) -> Path:
    return write_deepseek(directory, ARCHITECTURE, **options)


def test_layers() -> None:
    config = read(V2, norm_topk_prob=True)
    assert (config.family, config.architecture) == ("deepseek_v2", ARCHITECTURE)
    _, layer, _ = config.layers
    assert layer.mlp == MoeConfig(
        num_experts=8,
        expert_width=20,
        shared_width=40,
        scoring="softmax",
        topk_method="group_limited_greedy",
        top_k=3,
        norm_topk_prob=False,
        routed_scaling_factor=2.5,
        n_group=4,
        topk_group=2,
    )
    assert isinstance(layer.attention, MlaConfig) and config.rope.interleaved
    greedy = read(V2, topk_method=None).layers[1].mlp
    assert isinstance(greedy, MoeConfig) and (greedy.topk_method, greedy.n_group) == ("greedy", 1)


def test_published_numbers_of_parameters() -> None:
    """Of V2, and of V2-Lite, which does not compress queries."""
    shared = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    shared |= {"n_shared_experts": 2, "num_experts_per_tok": 6, "vocab_size": 102400}
    large = {
        "hidden_size": 5120,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "n_group": 8,
        "n_routed_experts": 160,
        "num_attention_heads": 128,
        "num_hidden_layers": 60,
        "num_key_value_heads": 128,
        "q_lora_rank": 1536,
        "topk_group": 3,
    }
    lite = {
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 64,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "topk_method": "greedy",
    }
    assert parameters({**V2, **shared, **large}) == 235_741_434_880
    assert parameters({**V2, **shared, **lite}) == 15_706_484_224


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"scoring_func": "sigmoid"}, "scoring_func"),
    ({"topk_method": "noaux_tc"}, "topk_method"),
    ({"n_group": None}, "lacks 'n_group'"),
    ({"moe_layer_freq": 2}, "moe_layer_freq"),
    ({"mlp_bias": True}, "MLPs with biases"),
    ({"num_experts_per_tok": None}, "lacks 'num_experts_per_tok'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refused(changes: dict[str, Any], message: str) -> None:
    assert_refused(V2, changes, message)


def test_damage_is_refused() -> None:
    assert_damage_is_refused(V2)


@pytest.mark.parametrize("name", CASES)
def test_export(name: str, tmp_path: Path) -> None:
    assert_export_agrees(write(tmp_path / "checkpoint", **CASES[name]), tmp_path / "export")


def test_cpu_engine(tmp_path: Path) -> None:
    assert_cpu_engine_generates(write(tmp_path / "checkpoint", tokenizer=True), tmp_path)


def test_fp8_engine(tmp_path: Path) -> None:
    assert_fp8_engine_obeys_its_plan(
        write(tmp_path / "checkpoint", tokenizer=True, q_lora_rank=None),
        tmp_path,
        product="model.layers.1.self_attn.q_proj",
    )
