"""R1HLAAttention: hybrid-length attention over a KV cache that it updates.

Legend: B batch, S tokens of this call, C cache capacity, H query heads, Hkv key/value heads, d head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from r1trt.config import InterBlock
from r1trt.ops.operator import AttributeValue, Operator

INTER_BLOCKS: tuple[InterBlock, ...] = ("first_to_first", "all_to_first")


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """One R1HLAAttention: q [B,S,H,d], caches [B,Hkv,C,d]; `capacity` None means a graph without a cache.

    `activation` is the type of q, k, v, of the caches and of the result.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    capacity: int | None
    scale: float
    block_size: int
    inter_block: InterBlock
    lam_skip: float
    has_lam: bool
    activation: ir.DataType

    def attributes(self) -> dict[str, AttributeValue]:
        """The attributes of a node with this spec."""
        return {
            "scale": self.scale,
            "block_size": self.block_size,
            "inter_block": INTER_BLOCKS.index(self.inter_block),
            "lam_skip": self.lam_skip,
            "v_head_dim": self.v_head_dim,
        }

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_heads // self.num_kv_heads


class HlaAttention(Operator[AttentionSpec]):
    """R1HLAAttention: hybrid-length attention over a KV cache that it updates."""

    name = "R1HLAAttention"
    inputs = ("q", "k", "v", "key_cache", "value_cache", "lam", "past_len", "seq_len")
    optional_inputs = frozenset({"v", "key_cache", "value_cache", "lam"})
    outputs = ("y", "key_cache_out", "value_cache_out")
    attributes = MappingProxyType(
        {"scale": 0.0, "block_size": 32, "inter_block": 0, "lam_skip": 0.0, "v_head_dim": 0}
    )

    def spec_from_node(self, node: ir.Node) -> AttentionSpec:
        """Read an R1HLAAttention node. Raises ExportError where a static size is missing."""
        heads, head_dim = self.sizes(node, "q", 2, 3)
        (kv_heads,) = self.sizes(node, "k", 2)
        capacity = None
        if self.input(node, "key_cache") is not None:
            (capacity,) = self.sizes(node, "key_cache", 2)
        return AttentionSpec(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            v_head_dim=int(self.attribute(node, "v_head_dim")) or head_dim,
            capacity=capacity,
            scale=float(self.attribute(node, "scale")) or head_dim**-0.5,
            block_size=int(self.attribute(node, "block_size")),
            inter_block=INTER_BLOCKS[int(self.attribute(node, "inter_block"))],
            lam_skip=float(self.attribute(node, "lam_skip")),
            has_lam=self.input(node, "lam") is not None,
            activation=self.dtype(node, "q"),
        )


HLA_ATTENTION = HlaAttention()
