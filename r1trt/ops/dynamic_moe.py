"""R1DynamicMoE: a router and its experts, as many a token as the router keeps.

Legend: B batch, S tokens of this call, E experts, D hidden size, F expert width,
Fs width of all shared experts together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import onnx_ir as ir

from r1trt.config import SCALE_BLOCK, MoeConfig
from r1trt.errors import ExportError
from r1trt.graph.network_view import LayerParts, ReadBack, joined
from r1trt.graph.weights import is_own_fp8
from r1trt.ops.cost import NO_COST, CallSize, Cost, cost_of
from r1trt.ops.expert_parts import ExpertPart, expert_parts, part_inputs
from r1trt.ops.layer_precision import FP8, INT8, SCALES, LayerPrecision, Precision
from r1trt.ops.moe_blocks import (
    asks_for_integers,
    block_problems,
    block_size_problems,
    block_sizes,
    in_blocks,
    scales_cost,
)
from r1trt.ops.moe_spec import INPUTS, SCORINGS, SHARED_SCALES, TOPK_METHODS, MoeSpec, ScaleKind
from r1trt.ops.moe_typing import expected_scales, realize_moe
from r1trt.ops.operator import Operator, ScaledWeight
from r1trt.ops.plugin_layer import PLUGIN_NARROW, one_type_problems
from r1trt.ops.product import PRODUCT_TYPES, asked_of_product, product_problems

BLOCK_SCALES = MappingProxyType({"w_gate_up": "gate_up_scale", "w_down": "down_scale"})
"""Inputs that hold the block scales of an export's FP8 experts, which typing takes out."""
ROUTER, EXPERTS, SHARED = "router", "experts", "shared expert"
"""The operator's parts."""
PLUGIN_GRANULE = 16
"""Sizes that the plugin's kernels take are multiples of it."""


class DynamicMoe(Operator[MoeSpec]):
    """R1DynamicMoE: a router and its experts, as many a token as the router keeps."""

    name = "R1DynamicMoE"
    inputs = INPUTS
    optional_inputs = frozenset(
        {
            "router_bias",
            "shared_gate_up",
            "shared_down",
            "x_scale",
            "gate_up_scale",
            "mid_scale",
            "down_scale",
        }
    )
    outputs = ("y",)
    attributes = MappingProxyType(
        {
            "scoring": 0,
            "topk_method": 0,
            "top_k": 2,
            "top_k_min": 1,
            "adaptive_threshold": 1.0,
            "norm_topk_prob": 1,
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "topk_group": 1,
            "expert_parts": 1,
            "weight_only": 0,
        }
    )

    types = PRODUCT_TYPES
    input_scales = ("input_scale", "mid_scale")
    weight_scales = ("weight_scale", "down_scale")
    plugin_types = PLUGIN_NARROW
    block_scales = True

    def input_names(self, node: ir.Node) -> tuple[str, ...]:
        """The operator's inputs, those of the experts' parts 1 to `expert_parts` - 1, and those of blocks."""
        names = self.inputs + part_inputs(int(self.attribute(node, "expert_parts")))
        return names + SHARED_SCALES if in_blocks(self, node) else names

    def parts(self, node: ir.Node) -> tuple[ExpertPart, ...]:
        """Which experts each part of a node's stacks holds. Raises ExportError where one has others."""
        (experts,) = self.sizes(node, "w_router", 0)
        count = int(self.attribute(node, "expert_parts"))
        if not 1 <= count <= experts:
            raise self._refused(node, "expert_parts", count, f"1 to {experts}, the layer's experts")
        parts = expert_parts(experts, count)
        for part in parts:
            for name in ("w_gate_up", "w_down"):
                self._require_experts(node, part.input(name), part.count)
        return parts

    def _require_experts(self, node: ir.Node, name: str, expected: int) -> None:
        (found,) = self.sizes(node, name, 0)
        if found != expected:
            raise ExportError(
                f"A stack of {self.name} does not hold the experts of its part.",
                where=f"input '{name}' of node '{node.name}'",
                found=f"{found} experts",
                expected=f"{expected}: equal parts, the first ones one larger where it does not divide",
                fix="export the graph again",
            )

    def spec_from_config(
        self, config: MoeConfig, hidden_size: int, weights: ir.DataType, parts: int = 1
    ) -> MoeSpec:
        """The spec of an exported layer, whose activations are FLOAT."""
        return MoeSpec(
            num_experts=config.num_experts,
            hidden_size=hidden_size,
            expert_width=config.expert_width,
            shared_width=config.shared_width,
            scoring=config.scoring,
            topk_method=config.topk_method,
            top_k=config.top_k,
            top_k_min=config.top_k_min,
            adaptive_threshold=config.adaptive_threshold,
            norm_topk_prob=config.norm_topk_prob,
            routed_scaling_factor=config.routed_scaling_factor,
            n_group=config.n_group,
            topk_group=config.topk_group,
            expert_parts=parts,
            has_router_bias=config.scoring == "sigmoid",
            activation=ir.DataType.FLOAT,
            weights=weights,
            shared=ir.DataType.FLOAT if config.shared_width else None,
            scales="block" if weights == ir.DataType.UINT8 else "none",
            weight_only=weights == ir.DataType.UINT8,
        )

    def spec_from_node(self, node: ir.Node) -> MoeSpec:
        """Read an R1DynamicMoE node. Raises ExportError where a static size is missing."""
        parts, has_shared = self.parts(node), self.has_shared(node)
        return MoeSpec(
            **(block_sizes(self, node) if in_blocks(self, node) else self._sizes(node)),
            num_experts=parts[-1].stop,
            scoring=self.choice(node, "scoring", SCORINGS),
            topk_method=self.choice(node, "topk_method", TOPK_METHODS),
            top_k=int(self.attribute(node, "top_k")),
            top_k_min=int(self.attribute(node, "top_k_min")),
            adaptive_threshold=self.factor(node, "adaptive_threshold"),
            norm_topk_prob=bool(self.attribute(node, "norm_topk_prob")),
            routed_scaling_factor=self.factor(node, "routed_scaling_factor"),
            n_group=int(self.attribute(node, "n_group")),
            topk_group=int(self.attribute(node, "topk_group")),
            expert_parts=len(parts),
            has_router_bias=self.input(node, "router_bias") is not None,
            activation=self.dtype(node, "x"),
            weights=self.dtype(node, "w_gate_up"),
            shared=self.dtype(node, "shared_down") if has_shared else None,
            scales=self._scale_kind(node, parts[0].count),
            weight_only=bool(self.attribute(node, "weight_only")),
            static_scales=self.input(node, "x_scale") is not None,
            alternates="alternates" in node.attributes,
        )

    def _sizes(self, node: ir.Node) -> dict[str, int]:
        """Sizes of a node whose weights are elements."""
        hidden, width = self.sizes(node, "w_down", 1, 2)
        shared = self.sizes(node, "shared_down", 1)[0] if self.has_shared(node) else 0
        return {"hidden_size": hidden, "expert_width": width, "shared_width": shared}

    def _scale_kind(self, node: ir.Node, experts: int) -> ScaleKind:
        """Which scales of FP8 part 0's `experts` have: one each, and one for a shared one, or one a block."""
        if self.input(node, "gate_up_scale") is None or in_blocks(self, node):
            return "none"
        counts = {experts, experts + self.has_shared(node)}
        sizes = self.dims(node, "gate_up_scale")
        return "expert" if len(sizes) == 1 and sizes[0] in counts else "block"

    def default_layer(self, node: ir.Node, activation: Precision, *, fp8: bool) -> LayerPrecision:
        """Experts in FP8 where asked for, the router in FP32."""
        kind, reason = activation, f"experts in {activation}"
        if fp8:
            kind, reason = FP8, "experts on FP8 tensor cores, one weight scale an expert"
        return LayerPrecision(
            op=self.name,
            input=kind,
            weight=kind,
            output=activation,
            shared_weight=kind if self.has_shared(node) else None,
            internals="router, selection and routing weights fp32",
            reason=reason,
        )

    def has_shared(self, node: ir.Node) -> bool:
        """Whether a node has a shared expert."""
        return self.input(node, "shared_down") is not None

    def in_blocks(self, wide: LayerPrecision, code: Precision, block_size: int) -> LayerPrecision:
        """Routed and shared experts in blocks, activations in INT8 blocks as they come."""
        shared = None if wide.shared_weight is None else code
        return replace(wide, input=INT8, weight=code, shared_weight=shared, block_size=block_size)

    def own_problems(self, layer: LayerPrecision) -> Iterator[str]:
        """One type for activations and wide experts; FP8 experts take FP8 activations, or have own scales."""
        if asks_for_integers(layer):
            yield from block_problems(layer)
        elif layer.own_scales:
            yield from _own_scales_problems(layer)
        elif layer.quantizes_weight and not layer.quantizes_input:
            yield "FP8 experts need an FP8 input; the operator has no weight-only form"
        elif layer.quantizes_input:
            yield from product_problems(layer)
        else:
            yield from one_type_problems(layer)
        if layer.shared_weight not in (None, layer.weight):
            yield (
                f"shared_weight is {layer.shared_weight}; the shared expert has the type of the experts, "
                f"{layer.weight}"
            )

    def node_problems(self, node: ir.Node, layer: LayerPrecision) -> Iterator[str]:
        """A shared expert has a type, and every expert has a scale, or rows of whole blocks."""
        yield from block_size_problems(layer, *self.sizes(node, "w_down", 1, 2))
        if layer.own_scales:
            yield from self.own_scales_problems(node, plugin=False)
        if self.has_shared(node) and layer.shared_weight is None:
            yield f"shared_weight is missing; the layer's shared expert has the type {layer.weight}"
        elif not self.has_shared(node) and layer.shared_weight is not None:
            yield f"shared_weight is {layer.shared_weight}, but the layer has no shared expert"
        expected = expected_scales(self, node)
        for name in self.weight_scales:
            scale = getattr(layer, name)
            found = len(scale) if isinstance(scale, tuple) else 1
            if scale is not None and (found != expected or not isinstance(scale, tuple)):
                yield (
                    f"{name} holds {found} scales, expected a list of {expected}: one per expert, and one "
                    "for the shared expert where there is one"
                )

    def own_scales_problems(self, node: ir.Node, *, plugin: bool) -> Iterator[str]:
        """All weights are FP8 with block scales; the plugin wants whole blocks of gate and of up rows."""
        names = ["w_gate_up", "w_down", *(["shared_gate_up", "shared_down"] * self.has_shared(node))]
        wide = [name for name in names if not is_own_fp8(self.required(node, name))]
        if wide:
            yield f"the checkpoint does not hold {' and '.join(wide)} in FP8 with block scales"
        spec = self.spec_from_node(node)
        for what, width in (("experts", spec.expert_width), ("the shared expert", spec.shared_width)):
            if plugin and width % SCALE_BLOCK:
                yield f"the width of {what} is {width}, the plugin's blocks want a multiple of {SCALE_BLOCK}"

    def plugin_reason(self, node: ir.Node) -> str | None:
        """Tokens are sent to experts by what the router says."""
        return "it routes tokens to experts"

    def plugin_problems(self, node: ir.Node) -> Iterator[str]:
        """Limits of the kernels (plugins/kernels/dynamic_moe/dynamic_moe.h)."""
        spec = self.spec_from_node(node)
        for what, size in (
            ("the hidden size", spec.hidden_size),
            ("the experts' width", spec.expert_width),
            ("the shared expert's width", spec.shared_width),
        ):
            if size % PLUGIN_GRANULE:
                yield f"{what} is {size}; the plugin takes multiples of {PLUGIN_GRANULE}"
        for what, count, limit in (
            ("experts", spec.num_experts, 256),
            ("experts a token", spec.top_k, 8),
            ("groups", spec.n_group, 32),
            ("parts of the experts", spec.expert_parts, 5),
        ):
            if count > limit:
                yield f"{count} {what}; the plugin takes at most {limit}"

    def scaled_weights(self, node: ir.Node, *, by_row: bool) -> dict[str, list[ScaledWeight]]:
        """One scale an expert, and the shared expert's behind them."""
        pairs = {"weight_scale": ("w_gate_up", "shared_gate_up"), "down_scale": ("w_down", "shared_down")}
        found: dict[str, list[ScaledWeight]] = {}
        for scale, (experts, shared) in pairs.items():
            found[scale] = [
                ScaledWeight(
                    value=self.required(node, part.input(experts)),
                    axis=0,
                    block_scales=self.input(node, part.input(BLOCK_SCALES[experts])),
                )
                for part in self.parts(node)
            ]
            value = self.input(node, shared)
            if value is not None:
                found[scale].append(ScaledWeight(value=value, axis=None))
        return found

    def realize(self, node: ir.Node, layer: LayerPrecision) -> None:
        """The node stays: activations and weights take the plan's types, FP8 scales become its inputs."""
        realize_moe(self, node, layer, self.parts(node))

    def read_back(self, parts: LayerParts, layer: LayerPrecision) -> ReadBack:
        """The router's product comes first, in FP32; the experts' follow."""
        products = parts.products
        router = joined(list(parts.product_types(products[:1]).values()))
        return ReadBack(
            {**asked_of_product(layer), "router": "fp32"},
            {**parts.product_types(products[1:]), "router": router},
        )

    def cost(self, spec: MoeSpec, layer: LayerPrecision, call: CallSize) -> Cost:
        """At most: every token takes `top_k` experts, and as many different ones as it can."""
        return sum(self.part_costs(spec, layer, call).values(), NO_COST)

    def part_costs(self, spec: MoeSpec, layer: LayerPrecision, call: CallSize) -> Mapping[str, Cost]:
        """Router, routed experts and shared expert; the input is read, and the result written, once."""
        tokens = call.batch * call.tokens
        routed = tokens * spec.top_k
        touched = min(spec.num_experts, routed)
        router = cost_of(
            macs=[("fp32", tokens * spec.router_weights)],
            reads=[
                ("fp32", spec.router_weights + spec.num_experts * spec.has_router_bias),
                ("int64", call.batch),
            ],
            writes=[],
        )
        experts = cost_of(
            macs=[(layer.input, routed * spec.expert_weights)],
            reads=[(layer.output, tokens * spec.hidden_size), (layer.weight, touched * spec.expert_weights)],
            writes=[(layer.output, tokens * spec.hidden_size)],
        ) + scales_cost(layer, touched * spec.expert_weights)
        if not spec.shared_width:
            return {ROUTER: router, EXPERTS: experts}
        shared = cost_of(
            macs=[(layer.input, tokens * spec.shared_weights)],
            reads=[(layer.weight, spec.shared_weights)],
            writes=[],
        ) + scales_cost(layer, spec.shared_weights)
        return {ROUTER: router, EXPERTS: experts, SHARED: shared}

    def reference_macs(self, spec: MoeSpec, call: CallSize) -> Mapping[str, int]:
        """Router, `top_k` experts and the shared expert of each token."""
        tokens = call.batch * call.tokens
        return {
            ROUTER: tokens * spec.router_weights,
            EXPERTS: tokens * spec.top_k * spec.expert_weights,
            SHARED: tokens * spec.shared_weights,
        }

    def part_of_input(self, name: str) -> str:
        """By the beginnings of their names."""
        if name in ("w_router", "router_bias"):
            return ROUTER
        return SHARED if name.startswith("shared_") else EXPERTS


def _own_scales_problems(layer: LayerPrecision) -> Iterator[str]:
    if not layer.quantizes_weight:
        yield f"own_scales belongs to an fp8_e4m3 weight, and weight is {layer.weight}"
    if not layer.quantizes_input and layer.input != layer.output:
        yield f"input is {layer.input} and output {layer.output}; the operator has one type for both"
    given = [name for name in SCALES if getattr(layer, name) is not None]
    if given:
        yield f"{' and '.join(given)} stand beside own_scales; the checkpoint's scales are all there are"


DYNAMIC_MOE = DynamicMoe()
