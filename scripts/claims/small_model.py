"""The small dense model that the rows about attention train: R1-ASA without experts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from training_loop import quiet_layers

from r1trt.families import model_config_from_dict
from r1trt.model import R1AsaForCausalLM


@dataclass(frozen=True, kw_only=True)
class SmallModel:
    """Sizes of a model.

    Attributes:
        vocab_size: Token ids.
        hidden_size: Width of the residual stream.
        num_layers: Layers.
        num_heads: Query heads, and key/value heads.
        inner: Width of the MLP.
        max_positions: Longest sequence.
        theta: Base wavelength of RoPE.
        inter_block: Form of the block branch.
        block_size: Of the block branch.
    """

    vocab_size: int
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    inner: int = 128
    max_positions: int = 512
    theta: float = 10000.0
    inter_block: str = "first_to_first"
    block_size: int = 32


def small_model(sizes: SmallModel, seed: int) -> R1AsaForCausalLM:
    """Makes a model with fresh weights of a seed; the gates start open, at a `lam` of 0.88."""
    torch.manual_seed(seed)
    module = R1AsaForCausalLM(model_config_from_dict(config_of(sizes), where=Path("config.json")))
    quiet_layers(module, sizes.num_layers)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("lam_gate.bias"):
                parameter.fill_(2.0)
    return module


def config_of(sizes: SmallModel) -> dict[str, Any]:
    """The model as a `config.json` has it."""
    return {
        "architectures": ["R1AsaForCausalLM"],
        "model_type": "r1_asa",
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.num_layers,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_heads,
        "head_dim": sizes.hidden_size // sizes.num_heads,
        "hla_block_size": sizes.block_size,
        "hla_inter_block": sizes.inter_block,
        "first_k_dense_replace": sizes.num_layers,
        "intermediate_size": sizes.inner,
        "num_experts": 1,
        "top_k": 1,
        "moe_intermediate_size": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": sizes.theta},
        "rope_temperature_alpha": 0.0,
        "max_position_embeddings": sizes.max_positions,
    }
