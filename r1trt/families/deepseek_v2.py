"""DeepSeek-V2: latent attention, and experts that a softmax router takes greedily or by groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from r1trt.config import LayerConfig, MoeConfig, RopeConfig, TopkMethod
from r1trt.config.checks import require_choice
from r1trt.families.deepseek_layers import MOE_NAMES, TENSORS, deepseek_layers, require_text, shared_width
from r1trt.families.family import Family
from r1trt.families.keys import Keys
from r1trt.families.rope_keys import rope_config


def _layers(keys: Keys) -> tuple[LayerConfig, ...]:
    return deepseek_layers(keys, _moe_config, _rope, default_dense_layers=0)


def _moe_config(keys: Keys) -> MoeConfig:
    require_text(keys, "scoring_func", "softmax")
    method = keys.text("topk_method", "greedy")
    require_choice("topk_method", method, ("greedy", "group_limited_greedy"))
    # NOTES: as in `transformers`, whose router ignores norm_topk_prob, and n_group where it is greedy.
    groups: dict[str, Any] = {}
    if method != "greedy":
        groups = {"n_group": keys.integer("n_group"), "topk_group": keys.integer("topk_group")}
    return MoeConfig(
        num_experts=keys.integer(MOE_NAMES.counts[0]),
        expert_width=keys.integer("moe_intermediate_size"),
        shared_width=shared_width(keys),
        scoring="softmax",
        topk_method=cast(TopkMethod, method),
        top_k=keys.integer("num_experts_per_tok"),
        norm_topk_prob=False,
        routed_scaling_factor=keys.number("routed_scaling_factor", 1.0),
        **groups,
    )


def _rope(keys: Keys, rotated: int) -> RopeConfig:
    return replace(rope_config(keys, rotated), interleaved=True)


FAMILY = Family(
    name="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    layers=_layers,
    rope=_rope,
    tensors=TENSORS,
    moe_names=MOE_NAMES,
)
