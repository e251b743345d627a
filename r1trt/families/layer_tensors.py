"""Tensors of the kinds of layer that several families share, under Hugging Face's usual names."""

from __future__ import annotations

from r1trt.config import DenseConfig, LayerConfig
from r1trt.families.tensors import LayerTensor


def _has_qkv_bias(layer: LayerConfig) -> bool:
    return layer.attention.qkv_bias


def _has_o_bias(layer: LayerConfig) -> bool:
    return layer.attention.o_bias


def _has_qk_norm(layer: LayerConfig) -> bool:
    return layer.attention.qk_norm


def _is_dense(layer: LayerConfig) -> bool:
    return isinstance(layer.mlp, DenseConfig)


def _has_mlp_bias(layer: LayerConfig) -> bool:
    return isinstance(layer.mlp, DenseConfig) and layer.mlp.bias


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
