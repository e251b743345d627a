"""R1DynamicRoPE: rotary position embedding at the positions of a cache, with a temperature.

Legend: B batch, S tokens of this call, H query heads, Hkv key/value heads, d head size, r rotary size.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from r1trt.ops.operator import AttributeValue, Operator


@dataclass(frozen=True, kw_only=True)
class RopeSpec:
    """One R1DynamicRoPE: q [B,S,H,d], k [B,S,Hkv,d]; the first `rotary_dim` of a head's d elements rotate.

    `activation` is the type of q and k and of the results.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    interleaved: bool
    attention_factor: float
    temperature_alpha: float
    original_max_position: int
    activation: ir.DataType

    def attributes(self) -> dict[str, AttributeValue]:
        """The attributes of a node with this spec."""
        return {
            "interleaved": int(self.interleaved),
            "attention_factor": self.attention_factor,
            "temperature_alpha": self.temperature_alpha,
            "original_max_position": self.original_max_position,
        }

    @property
    def has_temperature(self) -> bool:
        """Whether any position's temperature differs from 1."""
        return self.temperature_alpha != 0.0 and self.original_max_position > 0


class DynamicRope(Operator[RopeSpec]):
    """R1DynamicRoPE: rotary position embedding at the positions of a cache, with a temperature."""

    name = "R1DynamicRoPE"
    inputs = ("q", "k", "inv_freq", "past_len")
    optional_inputs = frozenset()
    outputs = ("q_out", "k_out")
    attributes = MappingProxyType(
        {"interleaved": 0, "attention_factor": 1.0, "temperature_alpha": 0.0, "original_max_position": 0}
    )

    def spec_from_node(self, node: ir.Node) -> RopeSpec:
        """Read an R1DynamicRoPE node. Raises ExportError where a static size is missing."""
        heads, head_dim = self.sizes(node, "q", 2, 3)
        (kv_heads,) = self.sizes(node, "k", 2)
        (half,) = self.sizes(node, "inv_freq", 0)
        return RopeSpec(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rotary_dim=2 * half,
            interleaved=bool(self.attribute(node, "interleaved")),
            attention_factor=float(self.attribute(node, "attention_factor")),
            temperature_alpha=float(self.attribute(node, "temperature_alpha")),
            original_max_position=int(self.attribute(node, "original_max_position")),
            activation=self.dtype(node, "q"),
        )


DYNAMIC_ROPE = DynamicRope()
