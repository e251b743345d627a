"""Keys of layers that several families spell alike: heads, dense MLPs, sliding windows."""

from __future__ import annotations

from typing import Any

from r1trt.config import DenseConfig, GqaConfig, LayerConfig
from r1trt.config.checks import MAX_LAYERS, MAX_WIDTH, require_size
from r1trt.families.keys import Keys


def num_layers(keys: Keys) -> int:
    """`num_hidden_layers`, checked before anything is made for each of them."""
    count = keys.integer("num_hidden_layers")
    require_size("num_hidden_layers", count, MAX_LAYERS)
    return count


def equal_layers(keys: Keys, attention: GqaConfig, *, mlp_bias: bool = False) -> tuple[LayerConfig, ...]:
    """As many layers as config.json says, all alike, with a dense MLP of `intermediate_size`."""
    mlp = DenseConfig(width=keys.integer("intermediate_size"), bias=mlp_bias)
    return (LayerConfig(attention=attention, mlp=mlp),) * num_layers(keys)


def gqa_config(keys: Keys, *, head_dim: int, num_kv_heads: int | None = None, **facts: Any) -> GqaConfig:
    """Attention with the heads that config.json names.

    Args:
        keys: config.json.
        head_dim: Elements of a head.
        num_kv_heads: What an absent `num_key_value_heads` means; None where the key is required.
        facts: What the family itself decides: biases, norms, a window.
    """
    return GqaConfig(
        num_heads=keys.integer("num_attention_heads"),
        num_kv_heads=keys.integer("num_key_value_heads", num_kv_heads),
        head_dim=head_dim,
        **facts,
    )


def head_dim_key(keys: Keys) -> int:
    """`head_dim`, or else the hidden size divided among the query heads."""
    if keys.has("head_dim"):
        head_dim = keys.integer("head_dim")
        require_size("head_dim", head_dim, MAX_WIDTH)
        return head_dim
    heads, hidden = keys.integer("num_attention_heads"), keys.integer("hidden_size")
    if heads < 1 or hidden % heads:
        keys.refuse(
            "head_dim is not given and does not follow from the heads",
            found=f"hidden_size {hidden}, num_attention_heads {heads}",
            expected="hidden_size divisible by num_attention_heads",
        )
    return hidden // heads


def refuse_sliding_layers(keys: Keys) -> None:
    """Refuses Qwen's sliding windows, which reach the layers from `max_window_layers` on."""
    if not keys.boolean("use_sliding_window", False) or not keys.has("sliding_window"):
        return
    # NOTES: transformers gives the window to the layers from max_window_layers on, so it may reach none.
    first, layers = keys.integer("max_window_layers", 0), keys.integer("num_hidden_layers")
    if first < layers:
        keys.refuse(
            "sliding-window attention is not implemented",
            found=f"use_sliding_window true, layers {first} to {layers - 1}",
            expected="use_sliding_window false",
            fix="set use_sliding_window to false only if prompts stay below the window: "
            "the model then means the same",
        )
