"""What a lowering needs to know of an operator, read off its node: attributes and static shapes.

Legend: B batch, S tokens of this call, C cache capacity, H query heads, Hkv key/value heads, d head size,
r rotary size, E experts, D hidden size, F expert width, Fs width of all shared experts together.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from r1trt.config import InterBlock, Scoring, TopkMethod
from r1trt.errors import ExportError
from r1trt.operators import DYNAMIC_MOE, DYNAMIC_ROPE, HLA_ATTENTION, AttributeValue, Operator

INTER_BLOCKS: tuple[InterBlock, ...] = ("first_to_first", "all_to_first")
SCORINGS: tuple[Scoring, ...] = ("softmax", "sigmoid")
TOPK_METHODS: tuple[TopkMethod, ...] = ("greedy", "group_limited_greedy", "noaux_tc")


@dataclass(frozen=True, kw_only=True)
class RopeSpec:
    """One R1DynamicRoPE: q [B,S,H,d], k [B,S,Hkv,d]; the first `rotary_dim` of the d numbers rotate."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    interleaved: bool
    attention_factor: float
    temperature_alpha: float
    original_max_position: int

    @property
    def has_temperature(self) -> bool:
        """Whether any position's temperature differs from 1."""
        return self.temperature_alpha != 0.0 and self.original_max_position > 0


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """One R1HLAAttention: q [B,S,H,d], caches [B,Hkv,C,d]; `capacity` None means a graph without a cache."""

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

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True, kw_only=True)
class MoeSpec:
    """One R1DynamicMoE: w_gate_up [E,2F,D] (gate rows first), w_down [E,D,F], shared_gate_up [2Fs,D]."""

    num_experts: int
    hidden_size: int
    expert_width: int
    shared_width: int
    scoring: Scoring
    topk_method: TopkMethod
    top_k: int
    top_k_min: int
    adaptive_threshold: float
    norm_topk_prob: bool
    routed_scaling_factor: float
    n_group: int
    topk_group: int
    has_router_bias: bool
    fp8: bool

    @property
    def uses_groups(self) -> bool:
        """Whether the coarse stage masks any expert group."""
        return self.n_group > 1 and self.topk_method != "greedy"


def _attribute(node: ir.Node, operator: Operator, name: str) -> AttributeValue:
    attribute = node.attributes.get(name)
    if attribute is None:
        return operator.attributes[name]
    return attribute.as_float() if isinstance(operator.attributes[name], float) else attribute.as_int()


def node_input(node: ir.Node, operator: Operator, name: str) -> ir.Value | None:
    """The value at the operator's input `name`, or None where it is absent."""
    index = operator.inputs.index(name)
    return node.inputs[index] if index < len(node.inputs) else None


def _dims(node: ir.Node, operator: Operator, name: str, *static: int) -> tuple[int, ...]:
    """The static sizes of an input at the axes `static`."""
    value = node_input(node, operator, name)
    shape = None if value is None else value.shape
    sizes = () if shape is None else tuple(shape[axis] for axis in static if -len(shape) <= axis < len(shape))
    if len(sizes) != len(static) or not all(isinstance(size, int) for size in sizes):
        raise ExportError(
            f"{operator.name} needs static sizes of its input '{name}'.",
            where=f"node '{node.name}'",
            found=f"shape {shape}",
            expected=f"integers at the axes {static}",
            fix="export the graph again; its inputs must carry shapes",
        )
    return tuple(int(size) for size in sizes if isinstance(size, int))


def rope_spec_from_node(node: ir.Node) -> RopeSpec:
    """Read an R1DynamicRoPE node. Raises ExportError where a static size is missing."""
    heads, head_dim = _dims(node, DYNAMIC_ROPE, "q", 2, 3)
    (kv_heads,) = _dims(node, DYNAMIC_ROPE, "k", 2)
    (half,) = _dims(node, DYNAMIC_ROPE, "inv_freq", 0)
    return RopeSpec(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rotary_dim=2 * half,
        interleaved=bool(_attribute(node, DYNAMIC_ROPE, "interleaved")),
        attention_factor=float(_attribute(node, DYNAMIC_ROPE, "attention_factor")),
        temperature_alpha=float(_attribute(node, DYNAMIC_ROPE, "temperature_alpha")),
        original_max_position=int(_attribute(node, DYNAMIC_ROPE, "original_max_position")),
    )


def attention_spec_from_node(node: ir.Node) -> AttentionSpec:
    """Read an R1HLAAttention node. Raises ExportError where a static size is missing."""
    heads, head_dim = _dims(node, HLA_ATTENTION, "q", 2, 3)
    (kv_heads,) = _dims(node, HLA_ATTENTION, "k", 2)
    capacity = None
    if node_input(node, HLA_ATTENTION, "key_cache") is not None:
        (capacity,) = _dims(node, HLA_ATTENTION, "key_cache", 2)
    return AttentionSpec(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=int(_attribute(node, HLA_ATTENTION, "v_head_dim")) or head_dim,
        capacity=capacity,
        scale=float(_attribute(node, HLA_ATTENTION, "scale")) or head_dim**-0.5,
        block_size=int(_attribute(node, HLA_ATTENTION, "block_size")),
        inter_block=INTER_BLOCKS[int(_attribute(node, HLA_ATTENTION, "inter_block"))],
        lam_skip=float(_attribute(node, HLA_ATTENTION, "lam_skip")),
        has_lam=node_input(node, HLA_ATTENTION, "lam") is not None,
    )


def moe_spec_from_node(node: ir.Node) -> MoeSpec:
    """Read an R1DynamicMoE node. Raises ExportError where a static size is missing."""
    experts, hidden, width = _dims(node, DYNAMIC_MOE, "w_down", 0, 1, 2)
    shared = 0
    if node_input(node, DYNAMIC_MOE, "shared_down") is not None:
        (shared,) = _dims(node, DYNAMIC_MOE, "shared_down", 1)
    return MoeSpec(
        num_experts=experts,
        hidden_size=hidden,
        expert_width=width,
        shared_width=shared,
        scoring=SCORINGS[int(_attribute(node, DYNAMIC_MOE, "scoring"))],
        topk_method=TOPK_METHODS[int(_attribute(node, DYNAMIC_MOE, "topk_method"))],
        top_k=int(_attribute(node, DYNAMIC_MOE, "top_k")),
        top_k_min=int(_attribute(node, DYNAMIC_MOE, "top_k_min")),
        adaptive_threshold=float(_attribute(node, DYNAMIC_MOE, "adaptive_threshold")),
        norm_topk_prob=bool(_attribute(node, DYNAMIC_MOE, "norm_topk_prob")),
        routed_scaling_factor=float(_attribute(node, DYNAMIC_MOE, "routed_scaling_factor")),
        n_group=int(_attribute(node, DYNAMIC_MOE, "n_group")),
        topk_group=int(_attribute(node, DYNAMIC_MOE, "topk_group")),
        has_router_bias=node_input(node, DYNAMIC_MOE, "router_bias") is not None,
        fp8=node_input(node, DYNAMIC_MOE, "gate_up_scale") is not None,
    )
