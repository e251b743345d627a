"""R1DynamicRoPE: rotary position embedding at the positions of a cache, with a temperature.

Legend: B batch, S tokens of this call, H query heads, Hkv key/value heads, d head size, r rotary size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from r1trt.config import AttentionConfig, GqaConfig, RopeConfig
from r1trt.graph.edit import Emitter, data_type, retype_outputs
from r1trt.graph.network_view import LayerParts, ReadBack
from r1trt.ops.cost import CallSize, Cost, cost_of
from r1trt.ops.layer_precision import WIDE, AllowedTypes, LayerPrecision, Precision
from r1trt.ops.operator import AttributeValue, Operator
from r1trt.ops.plugin_layer import PLUGIN_WIDE, one_type_problems


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

    types = AllowedTypes(input=WIDE)
    plugin_types = PLUGIN_WIDE

    def spec_from_config(
        self, config: AttentionConfig, rope: RopeConfig, attention_factor: float
    ) -> RopeSpec:
        """The spec of an exported layer, whose activations are FLOAT; latent attention rotates one key."""
        return RopeSpec(
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads if isinstance(config, GqaConfig) else 1,
            head_dim=config.rope_dim,
            rotary_dim=rope.rotary_dim,
            interleaved=rope.interleaved,
            attention_factor=attention_factor,
            temperature_alpha=rope.temperature_alpha,
            original_max_position=rope.original_max_position,
            activation=ir.DataType.FLOAT,
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

    def default_layer(self, node: ir.Node, activation: Precision, *, fp8: bool) -> LayerPrecision:
        """The activations' type at the border."""
        reason = f"angles and rotation in fp32, one rounding to {activation}"
        return LayerPrecision(op=self.name, input=activation, output=activation, reason=reason)

    def own_problems(self, layer: LayerPrecision) -> Iterator[str]:
        """One type for queries and keys on both sides."""
        yield from one_type_problems(layer)
        yield from super().own_problems(layer)

    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """Cast queries and keys; the frequencies and lengths keep the types that the operator fixes."""
        key, act = str(node.name), data_type(layer.input)
        emit = Emitter(node, key)
        for name in ("q", "k"):
            self.cast_input(emit, node, name, act)
        retype_outputs(node, key, act)

    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """An FP32 rotation, and what it is rounded to."""
        return ReadBack(
            {"rotation": "fp32", "output": layer.output},
            {"rotation": parts.outputs("ROTARY_EMBEDDING"), "output": parts.last_output},
        )

    def plugin_reason(self, node: ir.Node) -> str | None:
        """A temperature by position."""
        return "it has a temperature" if self.spec_from_node(node).has_temperature else None

    def cost(self, spec: RopeSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        """Two multiply-adds for each rotated element."""
        rows = call.batch * call.tokens * (spec.num_heads + spec.num_kv_heads)
        elements = rows * spec.head_dim
        return cost_of(
            macs=[("fp32", 2 * rows * spec.rotary_dim)],
            reads=[(layer.input, elements), ("fp32", spec.rotary_dim // 2), ("int64", call.batch)],
            writes=[(layer.output, elements)],
        )


DYNAMIC_ROPE = DynamicRope()
