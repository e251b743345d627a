"""Mistral: a Llama without biases whose attention may be a sliding window."""

from __future__ import annotations

from r1trt.config import LayerConfig
from r1trt.families.family import Family
from r1trt.families.keys import Keys
from r1trt.families.layer_keys import equal_layers, gqa_config, head_dim_key
from r1trt.families.layer_tensors import DENSE_TENSORS, GQA_TENSORS
from r1trt.families.tensors import MODEL_TENSORS

DEFAULT_WINDOW = 4096


def _window(keys: Keys) -> int | None:
    """`sliding_window`: null switches it off, and no key at all means the default of `transformers`."""
    if "sliding_window" in keys.raw and not keys.has("sliding_window"):
        return None
    return keys.integer("sliding_window", DEFAULT_WINDOW)


def _layers(keys: Keys) -> tuple[LayerConfig, ...]:
    # NOTES: by default there are 8 key/value heads whatever the query heads are, so config.json has to say.
    attention = gqa_config(keys, head_dim=head_dim_key(keys), window=_window(keys))
    return equal_layers(keys, attention)


FAMILY = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    layers=_layers,
    tensors=(*MODEL_TENSORS, *GQA_TENSORS, *DENSE_TENSORS),
)
