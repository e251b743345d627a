"""The three operators that carry the architecture: names, inputs, outputs, attributes.

Legend: B batch, S tokens of this call, C cache capacity, H query heads, Hkv key/value heads, d head size,
r rotary size, E experts, D hidden size, F expert width, Fs width of all shared experts together. The names
carry `R1` because TensorRT's ONNX parser looks an operator up by its type and ignores the domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DOMAIN = "r1trt"
DOMAIN_VERSION = 1
OPSET = 24
IR_VERSION = 12

AttributeValue = int | float


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator's signature: the contract between graphs, lowerings and plugins.

    Attributes:
        name: Operator type, and the TensorRT plugin's name.
        inputs: Input names in order.
        optional_inputs: Those of `inputs` that may be absent (an empty name in the node).
        outputs: Output names in order.
        attributes: Attribute names with their defaults; the default's type is the attribute's type.
    """

    name: str
    inputs: tuple[str, ...]
    optional_inputs: frozenset[str]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue]


DYNAMIC_ROPE = Operator(
    name="R1DynamicRoPE",
    inputs=("q", "k", "inv_freq", "past_len"),
    optional_inputs=frozenset(),
    outputs=("q_out", "k_out"),
    attributes=MappingProxyType(
        {"interleaved": 0, "attention_factor": 1.0, "temperature_alpha": 0.0, "original_max_position": 0}
    ),
)

HLA_ATTENTION = Operator(
    name="R1HLAAttention",
    inputs=("q", "k", "v", "key_cache", "value_cache", "lam", "past_len", "seq_len"),
    optional_inputs=frozenset({"v", "key_cache", "value_cache", "lam"}),
    outputs=("y", "key_cache_out", "value_cache_out"),
    attributes=MappingProxyType(
        {"scale": 0.0, "block_size": 32, "inter_block": 0, "lam_skip": 0.0, "v_head_dim": 0}
    ),
)

DYNAMIC_MOE = Operator(
    name="R1DynamicMoE",
    inputs=(
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
    ),
    optional_inputs=frozenset(
        {
            "router_bias",
            "shared_gate_up",
            "shared_down",
            "x_scale",
            "gate_up_scale",
            "mid_scale",
            "down_scale",
        }
    ),
    outputs=("y",),
    attributes=MappingProxyType(
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
    ),
)

OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {operator.name: operator for operator in (DYNAMIC_ROPE, HLA_ATTENTION, DYNAMIC_MOE)}
)
