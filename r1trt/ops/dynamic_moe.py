"""R1DynamicMoE: a router and its experts, as many a token as the router keeps.

Legend: B batch, S tokens of this call, E experts, D hidden size, F expert width,
Fs width of all shared experts together.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from r1trt.config import Scoring, TopkMethod
from r1trt.ops.operator import AttributeValue, Operator

SCORINGS: tuple[Scoring, ...] = ("softmax", "sigmoid")
TOPK_METHODS: tuple[TopkMethod, ...] = ("greedy", "group_limited_greedy", "noaux_tc")


@dataclass(frozen=True, kw_only=True)
class MoeSpec:
    """One R1DynamicMoE: w_gate_up [E,2F,D] (gate rows first), w_down [E,D,F], shared_gate_up [2Fs,D].

    `activation` is the type of x and y, `weights` that of the experts.
    """

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
    activation: ir.DataType
    weights: ir.DataType

    def attributes(self) -> dict[str, AttributeValue]:
        """The attributes of a node with this spec."""
        return {
            "scoring": SCORINGS.index(self.scoring),
            "topk_method": TOPK_METHODS.index(self.topk_method),
            "top_k": self.top_k,
            "top_k_min": self.top_k_min,
            "adaptive_threshold": self.adaptive_threshold,
            "norm_topk_prob": int(self.norm_topk_prob),
            "routed_scaling_factor": self.routed_scaling_factor,
            "n_group": self.n_group,
            "topk_group": self.topk_group,
        }

    @property
    def fp8(self) -> bool:
        """Whether the experts' weights are FP8 with scales as inputs of the node."""
        return self.weights == ir.DataType.FLOAT8E4M3FN

    @property
    def uses_groups(self) -> bool:
        """Whether the coarse stage masks any expert group."""
        return self.n_group > 1 and self.topk_method != "greedy"


class DynamicMoe(Operator[MoeSpec]):
    """R1DynamicMoE: a router and its experts, as many a token as the router keeps."""

    name = "R1DynamicMoE"
    inputs = (
        "x",
        "seq_len",
        "w_router",
        "router_bias",
        "w_gate_up",
        "w_down",
        "shared_gate_up",
        "shared_down",
        "x_scale",
        "gate_up_scale",
        "mid_scale",
        "down_scale",
    )
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
        }
    )

    def spec_from_node(self, node: ir.Node) -> MoeSpec:
        """Read an R1DynamicMoE node. Raises ExportError where a static size is missing."""
        experts, hidden, width = self.sizes(node, "w_down", 0, 1, 2)
        shared = 0
        if self.input(node, "shared_down") is not None:
            (shared,) = self.sizes(node, "shared_down", 1)
        return MoeSpec(
            num_experts=experts,
            hidden_size=hidden,
            expert_width=width,
            shared_width=shared,
            scoring=SCORINGS[int(self.attribute(node, "scoring"))],
            topk_method=TOPK_METHODS[int(self.attribute(node, "topk_method"))],
            top_k=int(self.attribute(node, "top_k")),
            top_k_min=int(self.attribute(node, "top_k_min")),
            adaptive_threshold=float(self.attribute(node, "adaptive_threshold")),
            norm_topk_prob=bool(self.attribute(node, "norm_topk_prob")),
            routed_scaling_factor=float(self.attribute(node, "routed_scaling_factor")),
            n_group=int(self.attribute(node, "n_group")),
            topk_group=int(self.attribute(node, "topk_group")),
            has_router_bias=self.input(node, "router_bias") is not None,
            activation=self.dtype(node, "x"),
            weights=self.dtype(node, "w_gate_up"),
        )


DYNAMIC_MOE = DynamicMoe()
