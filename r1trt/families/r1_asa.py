"""R1-ASA: hybrid-length attention, experts behind leading dense layers, RoPE with a temperature.

Its keys and tensor names are this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from r1trt.config import (
    DenseConfig,
    GqaConfig,
    HlaConfig,
    InterBlock,
    LayerConfig,
    MlpConfig,
    MoeConfig,
    RopeConfig,
    Scoring,
)
from r1trt.config.checks import MAX_EXPERTS, MAX_WIDTH, require_size
from r1trt.families.family import Family
from r1trt.families.keys import Keys
from r1trt.families.layer_keys import gqa_config, head_dim_key, num_layers
from r1trt.families.layer_tensors import DENSE_TENSORS, GQA_TENSORS, moe_tensors
from r1trt.families.rope_keys import agreed, rope_keys
from r1trt.families.tensors import MODEL_TENSORS, R1_ASA_NAMES, TIED_HEAD, LayerTensor

# The keys are this project's own, so that a misspelt one can be told from a foreign one.
KEYS = frozenset(
    {
        "num_experts", "moe_intermediate_size", "num_shared_experts", "shared_intermediate_size", "top_k",
        "top_k_min", "adaptive_threshold", "scoring", "norm_topk_prob", "routed_scaling_factor", "n_group",
        "topk_group", "first_k_dense_replace", "hla_block_size", "hla_inter_block", "hla_lam_skip",
        "hla_gate", "rope_parameters", "rope_scaling", "rope_theta", "rope_temperature_alpha",
        "original_max_position_embeddings",
    }
)  # fmt: skip
PREFIXES = (
    "adaptive_", "first_k_", "hla_", "moe_", "n_group", "norm_topk", "num_expert", "num_shared",
    "original_max", "rope_", "routed_", "scoring", "shared_", "top_k", "topk_",
)  # fmt: skip


def _layers(keys: Keys) -> tuple[LayerConfig, ...]:
    _refuse_misspelt(keys)
    attention = gqa_config(
        keys,
        head_dim=head_dim_key(keys),
        num_kv_heads=keys.integer("num_attention_heads"),
        hla=_hla_config(keys),
    )
    count, first_moe = num_layers(keys), keys.integer("first_k_dense_replace", 0)
    require_size("first_k_dense_replace", first_moe, count, minimum=0)
    # NOTES: without dense layers their width may be absent, or anything that is a size.
    width = keys.integer("intermediate_size", None if first_moe else 0)
    require_size("intermediate_size", width, MAX_WIDTH, minimum=0)
    dense = [DenseConfig(width=width)] if first_moe else []
    mlps: list[MlpConfig] = [*dense * first_moe, *[_moe_config(keys)] * (count - first_moe)]
    return tuple(LayerConfig(attention=attention, mlp=mlp) for mlp in mlps)


def _refuse_misspelt(keys: Keys) -> None:
    unknown = sorted(key for key in map(str, keys.raw) if key.startswith(PREFIXES) and key not in KEYS)
    if unknown:
        keys.refuse("config has unknown R1-ASA keys", found=", ".join(unknown), expected=sorted(KEYS))
    for key in ("attention_bias", "mlp_bias"):
        if keys.boolean(key, False):
            keys.refuse(f"R1-ASA has no {key}", found="true", expected="false")


def _hla_config(keys: Keys) -> HlaConfig:
    return HlaConfig(
        block_size=keys.integer("hla_block_size", 32),
        inter_block=cast(InterBlock, keys.text("hla_inter_block", "first_to_first")),
        lam_skip=keys.number("hla_lam_skip", 0.0),
        gate=keys.boolean("hla_gate", True),
    )


def _moe_config(keys: Keys) -> MoeConfig:
    scoring = cast(Scoring, keys.text("scoring", "softmax"))
    n_group = keys.integer("n_group", 1)
    return MoeConfig(
        num_experts=keys.integer(R1_ASA_NAMES.counts[0]),
        expert_width=keys.integer("moe_intermediate_size"),
        shared_width=_shared_width(keys),
        scoring=scoring,
        topk_method="noaux_tc" if n_group > 1 or scoring == "sigmoid" else "greedy",
        top_k=keys.integer("top_k", 2),
        top_k_min=keys.integer("top_k_min", 1),
        adaptive_threshold=keys.number("adaptive_threshold", 1.0),
        norm_topk_prob=keys.boolean("norm_topk_prob", True),
        routed_scaling_factor=keys.number("routed_scaling_factor", 1.0),
        n_group=n_group,
        topk_group=keys.integer("topk_group", 1),
    )


def _shared_width(keys: Keys) -> int:
    shared = keys.integer("num_shared_experts", 0)
    require_size("num_shared_experts", shared, MAX_EXPERTS, minimum=0)
    if not shared:
        return 0
    width = keys.integer("shared_intermediate_size")
    require_size("shared_intermediate_size", width, MAX_WIDTH)
    return width


def _rope(keys: Keys, head_dim: int) -> RopeConfig:
    kind, theta, factor, parameters = rope_keys(keys)
    if factor > 1:
        keys.refuse("partial_rotary_factor is out of range", found=factor, expected="at most 1")
    return RopeConfig(
        kind=kind,
        theta=theta,
        rotary_dim=int(head_dim * factor),
        parameters=parameters,
        **_temperature(keys, parameters),
    )


def _temperature(keys: Keys, rope: Mapping[str, Any]) -> dict[str, Any]:
    alpha = keys.number("rope_temperature_alpha", 0.1)
    if alpha == 0:
        return {"temperature_alpha": 0.0, "original_max_position": 0}
    # NOTES: without a shorter original length, the whole context was trained.
    key, trained = "original_max_position_embeddings", keys.integer("max_position_embeddings")
    return {
        "temperature_alpha": alpha,
        "original_max_position": agreed(keys, key, rope.get(key), trained),
    }


def _has_gate(layer: LayerConfig) -> bool:
    return isinstance(layer.attention, GqaConfig) and layer.attention.hla.gate


_LAM_GATE = (
    LayerTensor("self_attn.lam_gate.weight", ("H", "D"), _has_gate),
    LayerTensor("self_attn.lam_gate.bias", ("H",), _has_gate),
)

FAMILY = Family(
    name="r1_asa",
    architecture="R1AsaForCausalLM",
    layers=_layers,
    rope=_rope,
    tensors=(*MODEL_TENSORS, *GQA_TENSORS, *_LAM_GATE, *DENSE_TENSORS, *moe_tensors(R1_ASA_NAMES)),
    ignored=(TIED_HEAD,),
    in_transformers=False,
)
