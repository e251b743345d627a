"""Dense models beside R1-ASA: ordinary causal attention by one kernel, and no experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fast_attention import causal_attention
from torch import Tensor, nn

from r1trt.config import ModelConfig
from r1trt.families import model_config_from_dict
from r1trt.model import R1AsaForCausalLM
from r1trt.model.attention import HybridLengthAttention


class CausalAttention(HybridLengthAttention):
    """Attention without a gate for whole sequences from position 0, by a kernel that keeps no scores."""

    def _mixed(self, x_BSD: Tensor, q: Tensor, keys: Tensor, values: Tensor, position_BS: Tensor) -> Tensor:
        return causal_attention(q.transpose(1, 2), keys, values).transpose(1, 2)


def use_kernel_attention(module: R1AsaForCausalLM) -> None:
    """Puts `CausalAttention` in the place of every layer's attention; weights stay."""
    for index, layer in enumerate(module.model.layers):
        before, attention = layer.self_attn, CausalAttention(module.config, index)
        assert isinstance(before, nn.Module)
        attention.load_state_dict(before.state_dict())
        layer.self_attn = attention


def dense_config(**sizes: Any) -> ModelConfig:
    """The configuration of a dense model.

    Args:
        sizes: Keys of a Llama's config.json: vocab_size, hidden_size, intermediate_size, num_hidden_layers,
            num_attention_heads, num_key_value_heads, max_position_embeddings.
    """
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        **sizes,
    }
    return model_config_from_dict(raw, where=Path("config.json"))
