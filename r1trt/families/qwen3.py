"""Qwen3: every head of q and k passes an RMSNorm before RoPE; the head's size is its own key."""

from __future__ import annotations

from r1trt.config import LayerConfig
from r1trt.families.family import Family
from r1trt.families.keys import Keys
from r1trt.families.layer_keys import equal_layers, gqa_config, refuse_sliding_layers
from r1trt.families.layer_tensors import DENSE_TENSORS, GQA_TENSORS
from r1trt.families.tensors import MODEL_TENSORS


def _layers(keys: Keys) -> tuple[LayerConfig, ...]:
    refuse_sliding_layers(keys)
    bias = keys.boolean("attention_bias", False)
    # NOTES: the defaults are a head of 128 elements and 32 key/value heads whatever the other sizes are, so
    # config.json has to name both.
    attention = gqa_config(keys, head_dim=keys.integer("head_dim"), qkv_bias=bias, o_bias=bias, qk_norm=True)
    return equal_layers(keys, attention)


FAMILY = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    layers=_layers,
    tensors=(*MODEL_TENSORS, *GQA_TENSORS, *DENSE_TENSORS),
)
