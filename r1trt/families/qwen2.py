"""Qwen2: a Llama whose q, k and v projections always have biases, with a sliding window as an option."""

from __future__ import annotations

from r1trt.config import LayerConfig
from r1trt.families.family import Family
from r1trt.families.keys import Keys
from r1trt.families.layer_keys import equal_layers, gqa_config, head_dim_key, refuse_sliding_layers
from r1trt.families.layer_tensors import DENSE_TENSORS, GQA_TENSORS
from r1trt.families.tensors import MODEL_TENSORS


def _layers(keys: Keys) -> tuple[LayerConfig, ...]:
    refuse_sliding_layers(keys)
    # NOTES: by default there are 32 key/value heads whatever the query heads are, so config.json has to say.
    attention = gqa_config(keys, head_dim=head_dim_key(keys), qkv_bias=True)
    return equal_layers(keys, attention)


FAMILY = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    layers=_layers,
    tensors=(*MODEL_TENSORS, *GQA_TENSORS, *DENSE_TENSORS),
)
