"""Llama: grouped queries, dense MLPs, and one switch a part for biases."""

from __future__ import annotations

from r1trt.config import LayerConfig
from r1trt.families.family import Family
from r1trt.families.keys import Keys
from r1trt.families.layer_keys import equal_layers, gqa_config, head_dim_key
from r1trt.families.layer_tensors import DENSE_TENSORS, GQA_TENSORS
from r1trt.families.tensors import MODEL_TENSORS


def _layers(keys: Keys) -> tuple[LayerConfig, ...]:
    bias = keys.boolean("attention_bias", False)
    attention = gqa_config(
        keys,
        head_dim=head_dim_key(keys),
        num_kv_heads=keys.integer("num_attention_heads"),
        qkv_bias=bias,
        o_bias=bias,
    )
    return equal_layers(keys, attention, mlp_bias=keys.boolean("mlp_bias", False))


FAMILY = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    layers=_layers,
    tensors=(*MODEL_TENSORS, *GQA_TENSORS, *DENSE_TENSORS),
)
