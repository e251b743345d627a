"""Tensors of the kinds of layer that several families share, under Hugging Face's usual names."""

from __future__ import annotations

from r1trt.config import DenseConfig, GqaConfig, LayerConfig, MlaConfig, MoeConfig
from r1trt.families.tensors import LayerTensor, MoeNames


def _has_qkv_bias(layer: LayerConfig) -> bool:
    return isinstance(layer.attention, GqaConfig) and layer.attention.qkv_bias


def _has_o_bias(layer: LayerConfig) -> bool:
    return isinstance(layer.attention, GqaConfig) and layer.attention.o_bias


def _has_qk_norm(layer: LayerConfig) -> bool:
    return isinstance(layer.attention, GqaConfig) and layer.attention.qk_norm


def _is_dense(layer: LayerConfig) -> bool:
    return isinstance(layer.mlp, DenseConfig)


def _has_mlp_bias(layer: LayerConfig) -> bool:
    return isinstance(layer.mlp, DenseConfig) and layer.mlp.bias


def _is_moe(layer: LayerConfig) -> bool:
    return isinstance(layer.mlp, MoeConfig)


def _has_router_bias(layer: LayerConfig) -> bool:
    return isinstance(layer.mlp, MoeConfig) and layer.mlp.scoring == "sigmoid"


def _has_shared_expert(layer: LayerConfig) -> bool:
    return isinstance(layer.mlp, MoeConfig) and layer.mlp.shared_width > 0


def _compresses_q(layer: LayerConfig) -> bool:
    return isinstance(layer.attention, MlaConfig) and layer.attention.q_lora_rank is not None


def _has_whole_q(layer: LayerConfig) -> bool:
    return isinstance(layer.attention, MlaConfig) and layer.attention.q_lora_rank is None


def _has_mla_bias(layer: LayerConfig) -> bool:
    return isinstance(layer.attention, MlaConfig) and layer.attention.bias


def _has_q_a_bias(layer: LayerConfig) -> bool:
    return _compresses_q(layer) and _has_mla_bias(layer)


GQA_TENSORS = (
    LayerTensor("input_layernorm.weight", ("D",)),
    LayerTensor("self_attn.q_proj.weight", ("Q", "D")),
    LayerTensor("self_attn.k_proj.weight", ("KV", "D")),
    LayerTensor("self_attn.v_proj.weight", ("KV", "D")),
    LayerTensor("self_attn.o_proj.weight", ("D", "Q")),
    LayerTensor("self_attn.q_proj.bias", ("Q",), _has_qkv_bias),
    LayerTensor("self_attn.k_proj.bias", ("KV",), _has_qkv_bias),
    LayerTensor("self_attn.v_proj.bias", ("KV",), _has_qkv_bias),
    LayerTensor("self_attn.o_proj.bias", ("D",), _has_o_bias),
    LayerTensor("self_attn.q_norm.weight", ("d",), _has_qk_norm),
    LayerTensor("self_attn.k_norm.weight", ("d",), _has_qk_norm),
)
"""Attention with grouped queries, and the norm in front of it."""

DENSE_TENSORS = (
    LayerTensor("post_attention_layernorm.weight", ("D",)),
    LayerTensor("mlp.gate_proj.weight", ("F", "D"), _is_dense),
    LayerTensor("mlp.up_proj.weight", ("F", "D"), _is_dense),
    LayerTensor("mlp.down_proj.weight", ("D", "F"), _is_dense),
    LayerTensor("mlp.gate_proj.bias", ("F",), _has_mlp_bias),
    LayerTensor("mlp.up_proj.bias", ("F",), _has_mlp_bias),
    LayerTensor("mlp.down_proj.bias", ("D",), _has_mlp_bias),
)
"""A dense MLP where a layer has one, and the norm in front of any MLP."""

MLA_TENSORS = (
    LayerTensor("input_layernorm.weight", ("D",)),
    LayerTensor("self_attn.q_proj.weight", ("Q", "D"), _has_whole_q),
    LayerTensor("self_attn.q_a_proj.weight", ("Rq", "D"), _compresses_q),
    LayerTensor("self_attn.q_a_proj.bias", ("Rq",), _has_q_a_bias),
    LayerTensor("self_attn.q_a_layernorm.weight", ("Rq",), _compresses_q),
    LayerTensor("self_attn.q_b_proj.weight", ("Q", "Rq"), _compresses_q),
    LayerTensor("self_attn.kv_a_proj_with_mqa.weight", ("L", "D")),
    LayerTensor("self_attn.kv_a_proj_with_mqa.bias", ("L",), _has_mla_bias),
    LayerTensor("self_attn.kv_a_layernorm.weight", ("R",)),
    LayerTensor("self_attn.kv_b_proj.weight", ("KV", "R")),
    LayerTensor("self_attn.o_proj.weight", ("D", "O")),
    LayerTensor("self_attn.o_proj.bias", ("D",), _has_mla_bias),
)
"""Multi-head latent attention, and the norm in front of it."""


def moe_tensors(names: MoeNames) -> tuple[LayerTensor, ...]:
    """Router, routed experts and shared experts where a layer has them."""
    shared = f"mlp.{names.shared}"
    return (
        LayerTensor(f"mlp.{names.router}.weight", ("E", "D"), _is_moe),
        LayerTensor(f"mlp.{names.router}.e_score_correction_bias", ("E",), _has_router_bias),
        LayerTensor("mlp.experts.{expert}.gate_proj.weight", ("M", "D"), _is_moe),
        LayerTensor("mlp.experts.{expert}.up_proj.weight", ("M", "D"), _is_moe),
        LayerTensor("mlp.experts.{expert}.down_proj.weight", ("D", "M"), _is_moe),
        LayerTensor(f"{shared}.gate_proj.weight", ("Ms", "D"), _has_shared_expert),
        LayerTensor(f"{shared}.up_proj.weight", ("Ms", "D"), _has_shared_expert),
        LayerTensor(f"{shared}.down_proj.weight", ("D", "Ms"), _has_shared_expert),
    )
