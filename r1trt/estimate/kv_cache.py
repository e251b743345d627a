"""The KV cache: what the graph's caches hold, and what keys and values of all heads would."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from r1trt.config import AttentionConfig, GqaConfig, MlaConfig, ModelConfig
from r1trt.data_types import DATA_TYPES
from r1trt.estimate.sample import Sample
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan


@dataclass(frozen=True, kw_only=True)
class KvCache:
    """The cache of one precision.

    Attributes:
        token_bytes: Bytes that a token takes in the caches of all layers.
        decompressed_token_bytes: What it would take as keys and values of every key/value head; more than
            `token_bytes` where the model caches something smaller that they are computed from.
    """

    token_bytes: int
    decompressed_token_bytes: int

    def bytes(self, batch: int, tokens: int) -> int:
        """The allocation for `batch` rows of `tokens` tokens."""
        return batch * tokens * self.token_bytes


def kv_cache_of_plan(config: ModelConfig, sample: Sample, plan: PrecisionPlan) -> KvCache:
    """Adds up the caches of a graph, whatever operators they belong to, in the types of a plan.

    Args:
        config: The real model's configuration.
        sample: Its graph.
        plan: The sample's plan.
    """
    total, type_bytes = 0, 0
    for name, node in layer_nodes(sample.model).items():
        token_bytes = token_bytes_of_node(node, plan.layers[name])
        type_bytes = DATA_TYPES[plan.layers[name].cache_type].bytes if token_bytes else type_bytes
        total += sample.count(name) * token_bytes
    elements = sum(decompressed_elements(layer.attention) for layer in config.layers)
    return KvCache(token_bytes=total, decompressed_token_bytes=elements * type_bytes)


def token_bytes_of_node(node: ir.Node, layer: LayerPrecision) -> int:
    """Bytes that a token takes in the caches of one node; 0 for a node without any."""
    operator, total = layer_operator_of(node), 0
    for cache, given, _ in () if operator is None else operator.cache_values(node):
        assert given.shape is not None
        # The batch is symbolic: what is left beside the capacity is a token's share.
        others = [size for axis, size in enumerate(given.shape) if axis != cache.capacity_axis]
        elements = math.prod(size for size in others if isinstance(size, int))
        total += elements * DATA_TYPES[layer.cache_type].bytes
    return total


def decompressed_elements(attention: AttentionConfig) -> int:
    """Elements of one token's keys and values for all key/value heads; another attention is a case here."""
    match attention:
        case GqaConfig():
            return 2 * attention.kv_width
        case MlaConfig():
            return attention.num_heads * (attention.qk_head_dim + attention.v_head_dim)
