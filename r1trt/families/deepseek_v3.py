"""DeepSeek-V3 and R1: latent attention, and experts that a sigmoid router takes from the best groups."""

from __future__ import annotations

from dataclasses import replace

from r1trt.config import LayerConfig, MoeConfig, RopeConfig
from r1trt.families.deepseek_layers import (
    LAYER_TENSORS,
    MOE_NAMES,
    TENSORS,
    deepseek_layers,
    require_text,
    shared_width,
)
from r1trt.families.family import Family
from r1trt.families.keys import Keys
from r1trt.families.rope_keys import rope_config
from r1trt.families.tensors import IGNORED_BUFFERS, TIED_HEAD, NextnTensor

# Each layer behind the last has a decoder layer's tensors, the two norms and the projection that join the
# next token's embedding to the residual stream, and copies of both ends of the model.
_NEXTN = (
    *(NextnTensor(row.name) for row in LAYER_TENSORS),
    NextnTensor("embed_tokens.weight"),
    NextnTensor("enorm.weight"),
    NextnTensor("hnorm.weight"),
    NextnTensor("eh_proj.weight"),
    NextnTensor("shared_head.norm.weight"),
    NextnTensor("shared_head.head.weight"),
)


def _layers(keys: Keys) -> tuple[LayerConfig, ...]:
    return deepseek_layers(keys, _moe_config, _rope, default_dense_layers=3)


def _moe_config(keys: Keys) -> MoeConfig:
    # NOTES: configs that transformers 5 writes have neither of the two; its router knows nothing else.
    require_text(keys, "scoring_func", "sigmoid")
    require_text(keys, "topk_method", "noaux_tc")
    return MoeConfig(
        num_experts=keys.integer(MOE_NAMES.counts[0]),
        expert_width=keys.integer("moe_intermediate_size"),
        shared_width=shared_width(keys),
        scoring="sigmoid",
        topk_method="noaux_tc",
        top_k=keys.integer("num_experts_per_tok"),
        norm_topk_prob=keys.boolean("norm_topk_prob", True),
        routed_scaling_factor=keys.number("routed_scaling_factor", 2.5),
        n_group=keys.integer("n_group"),
        topk_group=keys.integer("topk_group"),
    )


def _rope(keys: Keys, rotated: int) -> RopeConfig:
    return replace(rope_config(keys, rotated), interleaved=keys.boolean("rope_interleave", True))


FAMILY = Family(
    name="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    layers=_layers,
    rope=_rope,
    tensors=TENSORS,
    ignored=(*IGNORED_BUFFERS, TIED_HEAD, *_NEXTN),
    moe_names=MOE_NAMES,
)
