"""R1HLAAttention: hybrid-length attention over a KV cache that it updates.

In the latent form, `v` and `value_cache` are absent and there is one key head: a key's value is its first
`v_head_dim` elements.

Legend: B batch, S tokens of this call, C cache capacity, H query heads, Hkv key/value heads, d head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import onnx_ir as ir

from r1trt.config import AttentionConfig, GqaConfig, HlaConfig, InterBlock
from r1trt.graph.edit import Emitter, data_type, retype_output
from r1trt.graph.network_view import LayerParts, ReadBack
from r1trt.ops.cost import NO_COST, CallSize, Cost, cost_of
from r1trt.ops.layer_precision import WIDE, AllowedTypes, LayerPrecision, Precision
from r1trt.ops.operator import AttributeValue, Cache, Operator
from r1trt.ops.plugin_layer import PLUGIN_NARROW, one_type_problems

INTER_BLOCKS: tuple[InterBlock, ...] = ("first_to_first", "all_to_first")
FULL, BLOCK = "full branch", "block branch"
"""Parts of an attention with a lambda gate."""
PLUGIN_HEADS = ((64, 64), (128, 128), (192, 128))
"""Elements of a key and of a value that the plugin has kernels for."""
PLUGIN_LATENT = (576, 512)
"""Elements of a key and of its value that the plugin's latent kernel is made for."""


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """One R1HLAAttention: q [B,S,H,d], caches [B,Hkv,C,d]; `capacity` None means a graph without a cache.

    `activation` is the type of q, k, v and of the result, `cache` that of the caches.
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
    latent: bool
    activation: ir.DataType
    cache: ir.DataType

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

    @property
    def pair_macs(self) -> int:
        """Multiply-adds of a query and a key: their product, and the weighted value."""
        return self.head_dim + self.v_head_dim


class HlaAttention(Operator[AttentionSpec]):
    """R1HLAAttention: hybrid-length attention over a KV cache that it updates."""

    name = "R1HLAAttention"
    inputs = ("q", "k", "v", "key_cache", "value_cache", "lam", "past_len", "seq_len")
    optional_inputs = frozenset({"v", "key_cache", "value_cache", "lam"})
    outputs = ("y", "key_cache_out", "value_cache_out")
    attributes = MappingProxyType(
        {"scale": 0.0, "block_size": 32, "inter_block": 0, "lam_skip": 0.0, "v_head_dim": 0}
    )

    types = AllowedTypes(input=WIDE)
    caches = (
        Cache(input="key_cache", output="key_cache_out", capacity_axis=2),
        Cache(input="value_cache", output="value_cache_out", capacity_axis=2),
    )
    plugin_types = PLUGIN_NARROW

    def spec_from_config(self, config: AttentionConfig, capacity: int | None) -> AttentionSpec:
        """The spec of an exported layer, whose activations are FLOAT."""
        if isinstance(config, GqaConfig):
            hla, kv_heads, key, value = config.hla, config.num_kv_heads, config.head_dim, config.head_dim
            scale = config.head_dim**-0.5
        else:
            hla, kv_heads, key, value = HlaConfig(), 1, config.latent_dim, config.kv_lora_rank
            scale = config.scale
        return AttentionSpec(
            num_heads=config.num_heads,
            num_kv_heads=kv_heads,
            head_dim=key,
            v_head_dim=value,
            capacity=capacity,
            scale=scale,
            block_size=hla.block_size,
            inter_block=hla.inter_block,
            lam_skip=hla.lam_skip,
            has_lam=hla.gate,
            latent=not isinstance(config, GqaConfig),
            activation=ir.DataType.FLOAT,
            cache=ir.DataType.FLOAT,
        )

    def reference_spec(self, config: AttentionConfig) -> AttentionSpec:
        """The spec of what PyTorch computes: of latents it makes the keys and values of all heads."""
        spec = self.spec_from_config(config, None)
        if isinstance(config, GqaConfig):
            return spec
        size = config.qk_head_dim
        return replace(
            spec, latent=False, num_kv_heads=spec.num_heads, head_dim=size, v_head_dim=config.v_head_dim
        )

    def spec_from_node(self, node: ir.Node) -> AttentionSpec:
        """Read an R1HLAAttention node. Raises ExportError where a static size is missing."""
        heads, head_dim = self.sizes(node, "q", 2, 3)
        (kv_heads,) = self.sizes(node, "k", 2)
        capacity, activation = None, self.dtype(node, "q")
        cache = activation
        if self.input(node, "key_cache") is not None:
            (capacity,), cache = self.sizes(node, "key_cache", 2), self.dtype(node, "key_cache")
        return AttentionSpec(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            v_head_dim=int(self.attribute(node, "v_head_dim")) or head_dim,
            capacity=capacity,
            scale=float(self.attribute(node, "scale")) or head_dim**-0.5,
            block_size=int(self.attribute(node, "block_size")),
            inter_block=self.choice(node, "inter_block", INTER_BLOCKS),
            lam_skip=float(self.attribute(node, "lam_skip")),
            has_lam=self.input(node, "lam") is not None,
            latent=self.input(node, "v") is None,
            activation=activation,
            cache=cache,
        )

    def default_layer(self, node: ir.Node, activation: Precision, *, fp8: bool) -> LayerPrecision:
        """The activations' type, for the cache too."""
        return LayerPrecision(
            op=self.name,
            input=activation,
            output=activation,
            internals="unverified",
            reason=f"attention in {activation} whatever stands around it; KV cache in {activation}",
        )

    def own_problems(self, layer: LayerPrecision) -> Iterator[str]:
        """One type for queries, keys and values; caches have it too, or are chosen beside FP32."""
        yield from one_type_problems(layer)
        if layer.cache not in (None, layer.input) and layer.input != "fp32":
            yield f"cache is {layer.cache} and input {layer.input}, but a cache is chosen beside fp32 alone"
        yield from super().own_problems(layer)

    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """Cast what enters and leaves; lam and the lengths keep the types that the operator fixes."""
        key, act, held = str(node.name), data_type(layer.input), data_type(layer.cache_type)
        emit = Emitter(node, key)
        for name in ("q", "k", "v"):
            self.cast_input(emit, node, name, act)
        for cache in self.caches:
            self.cast_input(emit, node, cache.input, held)
        for index in range(len(node.outputs)):
            retype_output(node, index, key, held if index else act)

    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """Types at its border and of its caches; a fused kernel decides what it computes in."""
        asked, found = {"output": layer.output}, {"output": parts.last_output}
        if parts.of_type("KV_CACHE_UPDATE"):
            asked["cache"], found["cache"] = layer.input, parts.outputs("KV_CACHE_UPDATE")
        return ReadBack(asked, found)

    def plugin_reason(self, node: ir.Node) -> str | None:
        """The block branch, and keys that hold their values, or are of another size."""
        spec = self.spec_from_node(node)
        if spec.has_lam:
            return "its lambda gate mixes two branches"
        if spec.latent:
            return "its keys are latents"
        return None if spec.head_dim == spec.v_head_dim else "its keys and values differ in size"

    def plugin_problems(self, node: ir.Node) -> Iterator[str]:
        """Heads, or latents, of other sizes than its kernels'."""
        spec = self.spec_from_node(node)
        if not spec.latent and (spec.head_dim, spec.v_head_dim) not in PLUGIN_HEADS:
            made = ", ".join(f"{key}/{value}" for key, value in PLUGIN_HEADS)
            yield f"heads of {spec.head_dim}/{spec.v_head_dim} elements of keys/values; its kernels: {made}"
        if spec.latent and (spec.head_dim, spec.v_head_dim) != PLUGIN_LATENT:
            key, value = PLUGIN_LATENT
            yield (
                f"latent keys of {spec.head_dim} elements and values of {spec.v_head_dim}; its kernel is "
                f"made for {key} and {value} (kv_lora_rank {value}, qk_rope_head_dim {key - value})"
            )

    def cost(self, spec: AttentionSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        """Both branches whole, though lam may skip one; masked keys count nowhere, and keys are read once."""
        return sum(self.part_costs(spec, layer, call).values(), NO_COST)

    def part_costs(self, spec: AttentionSpec, layer: LayerPrecision, call: CallSize) -> Mapping[str, Cost]:
        """The branches; keys that the block branch sees are among those that the full one has read."""
        if not spec.has_lam:
            return {"": self._full_cost(spec, layer, call)}
        tokens = call.batch * call.tokens * spec.num_heads
        block = cost_of(
            macs=[(layer.input, call.batch * spec.num_heads * block_pairs(spec, call) * spec.pair_macs)],
            reads=[("fp32", tokens)],
            writes=[],
        )
        return {FULL: self._full_cost(spec, layer, call), BLOCK: block}

    def reference_macs(self, spec: AttentionSpec, call: CallSize) -> Mapping[str, int]:
        """Every query against every key, in each of the branches: a mask leaves nothing out."""
        pairs = call.tokens * (call.past + call.tokens)
        macs = call.batch * spec.num_heads * pairs * spec.pair_macs
        return dict.fromkeys((FULL, BLOCK) if spec.has_lam else ("",), macs)

    def part_of_cache(self, spec: AttentionSpec) -> str:
        """The full branch, where there are two."""
        return FULL if spec.has_lam else ""

    def _full_cost(self, spec: AttentionSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        tokens = call.batch * call.tokens
        stored = spec.head_dim if spec.latent else spec.pair_macs
        keys = call.batch * (call.past + call.tokens) * spec.num_kv_heads * stored
        new = tokens * spec.num_kv_heads * stored
        queries, results = (tokens * spec.num_heads * size for size in (spec.head_dim, spec.v_head_dim))
        return cost_of(
            macs=[(layer.input, call.batch * spec.num_heads * full_pairs(call) * spec.pair_macs)],
            reads=[(layer.input, queries), (layer.cache_type, keys), ("int64", 2 * call.batch)],
            writes=[(layer.output, results), (layer.cache_type, new if spec.capacity is not None else 0)],
        )


def full_pairs(call: CallSize) -> int:
    """Query-key pairs of causal attention in one sequence."""
    return call.tokens * call.past + call.tokens * (call.tokens + 1) // 2


def block_pairs(spec: AttentionSpec, call: CallSize) -> int:
    """Query-key pairs of the block branch in one sequence."""
    total, size = 0, spec.block_size
    for position in range(call.past, call.past + call.tokens):
        block, row = divmod(position, size)
        if spec.inter_block == "all_to_first":
            total += row + 1 + block
        else:
            total += row + 1 if row else block + 1
    return total


HLA_ATTENTION = HlaAttention()
