"""What DeepSeek-V2 and DeepSeek-V3 share: latent attention, and experts behind leading dense layers."""

from __future__ import annotations

from collections.abc import Callable

from r1trt.config import DenseConfig, LayerConfig, MlaConfig, MoeConfig, RopeConfig
from r1trt.config.checks import MAX_EXPERTS, MAX_WIDTH, require_size
from r1trt.families.keys import Keys
from r1trt.families.layer_keys import num_layers
from r1trt.families.layer_tensors import DENSE_TENSORS, MLA_TENSORS, moe_tensors
from r1trt.families.tensors import MODEL_TENSORS, MoeNames, Tensor
from r1trt.rope import yarn_score_factor

MOE_NAMES = MoeNames(
    router="gate",
    shared="shared_experts",
    counts=("n_routed_experts", "num_local_experts", "num_experts"),
)
LAYER_TENSORS = (*MLA_TENSORS, *DENSE_TENSORS, *moe_tensors(MOE_NAMES))
TENSORS: tuple[Tensor, ...] = (*MODEL_TENSORS, *LAYER_TENSORS)


def deepseek_layers(
    keys: Keys,
    moe: Callable[[Keys], MoeConfig],
    rope: Callable[[Keys, int], RopeConfig],
    *,
    default_dense_layers: int,
) -> tuple[LayerConfig, ...]:
    """Reads the layers: `first_k_dense_replace` with a dense MLP, then experts.

    Args:
        keys: config.json.
        moe: Reads the experts.
        rope: Reads the rotation.
        default_dense_layers: What an absent `first_k_dense_replace` means.
    """
    _refuse_unimplemented(keys)
    count, dense = num_layers(keys), keys.integer("first_k_dense_replace", default_dense_layers)
    require_size("first_k_dense_replace", dense, MAX_WIDTH, minimum=0)
    dense, attention, experts = min(dense, count), _mla_config(keys, rope), moe(keys)
    width = keys.integer("intermediate_size")
    leading = LayerConfig(attention=attention, mlp=DenseConfig(width=width))
    return (leading,) * dense + (LayerConfig(attention=attention, mlp=experts),) * (count - dense)


def shared_width(keys: Keys) -> int:
    """Width of all shared experts together; an absent or null `n_shared_experts` means none."""
    shared = keys.integer("n_shared_experts", 0)
    require_size("n_shared_experts", shared, MAX_EXPERTS, minimum=0)
    return shared * keys.integer("moe_intermediate_size")


def require_text(keys: Keys, key: str, expected: str) -> None:
    """Refuses another value of a key that the architecture leaves no choice in; it may be absent."""
    found = keys.text(key, expected)
    if found != expected:
        keys.refuse(f"{key} is not one that this architecture has", found=repr(found), expected=expected)


def _mla_config(keys: Keys, rope: Callable[[Keys, int], RopeConfig]) -> MlaConfig:
    nope, rotated = keys.integer("qk_nope_head_dim"), keys.integer("qk_rope_head_dim")
    for name, size in (("qk_nope_head_dim", nope), ("qk_rope_head_dim", rotated)):
        require_size(name, size, MAX_WIDTH)
    if "q_lora_rank" not in keys.raw:
        # NOTES: null switches the compression off, and no key at all is 1536 in `transformers`.
        keys.refuse("config lacks 'q_lora_rank'", found="no key", expected="an integer, or null")
    return MlaConfig(
        num_heads=keys.integer("num_attention_heads"),
        q_lora_rank=keys.integer("q_lora_rank") if keys.has("q_lora_rank") else None,
        kv_lora_rank=keys.integer("kv_lora_rank"),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rotated,
        v_head_dim=keys.integer("v_head_dim"),
        scale=float((nope + rotated) ** -0.5 * yarn_score_factor(rope(keys, rotated))),
        bias=keys.boolean("attention_bias", False),
    )


def _refuse_unimplemented(keys: Keys) -> None:
    heads = keys.integer("num_attention_heads")
    kv_heads = keys.integer("num_key_value_heads", heads)
    if kv_heads != heads:
        keys.refuse(
            "latent attention has as many key/value heads as query heads",
            found=f"num_attention_heads {heads}, num_key_value_heads {kv_heads}",
            expected="equal numbers",
        )
    frequency = keys.integer("moe_layer_freq", 1)
    if frequency != 1:
        # NOTES: `transformers` ignores the key, and no published model has another value.
        keys.refuse("moe_layer_freq is not implemented", found=frequency, expected="1")
    if keys.boolean("mlp_bias", False):
        keys.refuse("MLPs with biases are not implemented here", found="mlp_bias true", expected="false")
