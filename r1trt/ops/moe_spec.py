"""What a body of R1DynamicMoE has to know of a node.

Legend: E experts, D hidden size, F expert width, Fs width of all shared experts together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from r1trt.config import Scoring, TopkMethod
from r1trt.graph.functions import AttributeValue
from r1trt.ops.expert_parts import ExpertPart, expert_parts, part_inputs

ScaleKind = Literal["none", "expert", "block"]
INPUTS = (
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
"""Of a node whose experts come in one part."""
SHARED_SCALES = ("shared_gate_up_scale", "shared_down_scale")
"""Inputs behind all others of a node whose experts are in INT8 or INT4 blocks."""
PROJECTIONS = 3
"""Matrices of an expert: gate, up and down."""
SCORINGS: tuple[Scoring, ...] = ("softmax", "sigmoid")
TOPK_METHODS: tuple[TopkMethod, ...] = ("greedy", "group_limited_greedy", "noaux_tc")


@dataclass(frozen=True, kw_only=True)
class MoeSpec:
    """One R1DynamicMoE: w_gate_up [E,2F,D] (gate rows first), w_down [E,D,F], shared_gate_up [2Fs,D].

    `activation` is the type of x and y, `weights` that of the experts, whose stacks come in `expert_parts`
    tensors along E, and `shared` that of the shared expert. FP8 weights, or their bytes (UINT8), have
    `scales`; activations are quantized too unless `weight_only`, by scales of the node if `static_scales`.

    Weights in blocks have `bits`, and `block_size` neighbours of a row share a scale. Their codes are UINT8,
    as `r1trt.graph.block_codes` packs them; the routed experts' rows of gate and up take turns. So do those
    of FP32 experts that `alternates` says.
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
    expert_parts: int = 1
    has_router_bias: bool
    activation: ir.DataType
    weights: ir.DataType
    shared: ir.DataType | None = None
    scales: ScaleKind = "none"
    weight_only: bool = False
    static_scales: bool = False
    bits: int = 0
    block_size: int | None = None
    alternates: bool = False

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
            "expert_parts": self.expert_parts,
            "weight_only": int(self.weight_only),
        }

    @property
    def parts(self) -> tuple[ExpertPart, ...]:
        """Which experts each part of the stacks holds."""
        return expert_parts(self.num_experts, self.expert_parts)

    @property
    def router_weights(self) -> int:
        """Elements of the router's matrix."""
        return self.num_experts * self.hidden_size

    @property
    def expert_weights(self) -> int:
        """Elements of one expert's three matrices."""
        return PROJECTIONS * self.hidden_size * self.expert_width

    @property
    def shared_weights(self) -> int:
        """Elements of the shared expert's."""
        return PROJECTIONS * self.hidden_size * self.shared_width

    @property
    def fp8(self) -> bool:
        """Whether the experts' weights are FP8 with scales as inputs of the node."""
        return self.weights == ir.DataType.FLOAT8E4M3FN

    @property
    def quantizes_input(self) -> bool:
        """Whether what enters a product is FP8."""
        return self.scales != "none" and not self.weight_only

    @property
    def scales_hold_shared(self) -> bool:
        """Whether the shared expert's scales stand behind those of the experts of part 0."""
        return self.scales != "none" and self.shared == self.weights

    @property
    def uses_groups(self) -> bool:
        """Whether the coarse stage masks any expert group."""
        return self.n_group > 1 and self.topk_method != "greedy"


def moe_inputs(spec: MoeSpec) -> tuple[str, ...]:
    """Names of the inputs of a node with this spec, in order."""
    return INPUTS + part_inputs(spec.expert_parts) + SHARED_SCALES * (spec.block_size is not None)
