"""Layers of the three operators: tensors and attributes that go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.expert_parts import PARTED, expert_parts, part_inputs
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.ops.registry import OPERATORS
from r1trt.passes.name_absent_inputs import INPUT_MASK
from r1trt.plugin_checks.harness.driver import BF16, FLOAT, FP8, INT64, Field, Tensor, fields_from

# What a plugin serializes besides: the host layer's number of multiprocessors.
NUM_SMS, HOST_SMS = "num_sms", 8
WORKSPACE_UNITS, WORKSPACE_UNIT, UNKNOWN_WORKSPACE = "workspace_units", 256, -1


@dataclass(frozen=True)
class Layer:
    """A layer as a test states it; inputs by the operator's names, in any order."""

    operator: str
    inputs: Mapping[str, Tensor]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, float]

    @property
    def operator_inputs(self) -> tuple[str, ...]:
        """The inputs that the operator may have, in its order."""
        return OPERATORS[self.operator].inputs + part_inputs(int(self.attributes.get("expert_parts", 1)))

    @property
    def names(self) -> list[str]:
        """The inputs that are there, in the operator's order."""
        return [name for name in self.operator_inputs if name in self.inputs]

    @property
    def tensors(self) -> list[Tensor]:
        """The inputs that are there, as TensorRT gives them."""
        return [self.inputs[name] for name in self.names]

    @property
    def mask(self) -> int:
        """A bit for each of the operator's inputs that is there."""
        return sum(1 << bit for bit, name in enumerate(self.operator_inputs) if name in self.inputs)

    @property
    def fields(self) -> list[Field]:
        """The plugin's fields, as an engine holds them."""
        return fields_from({**self.attributes, INPUT_MASK: self.mask})

    def with_input(self, name: str, tensor: Tensor) -> Layer:
        """The layer with another tensor for an input."""
        return replace(self, inputs={**self.inputs, name: tensor})

    def without(self, *names: str) -> Layer:
        """The layer without some inputs."""
        return replace(
            self, inputs={name: tensor for name, tensor in self.inputs.items() if name not in names}
        )

    def with_attributes(self, **attributes: float) -> Layer:
        """The layer with other attributes."""
        return replace(self, attributes={**self.attributes, **attributes})


def rope_layer(
    type: int = BF16, batch: int = 2, seq: int = 5, heads: int = 4, kv_heads: int = 2, head_dim: int = 16,
    rotary: int = 8,
) -> Layer:  # fmt: skip
    """A layer of R1DynamicRoPE."""
    q, k = Tensor(type, (batch, seq, heads, head_dim)), Tensor(type, (batch, seq, kv_heads, head_dim))
    inputs = {"q": q, "k": k, "inv_freq": Tensor(FLOAT, (rotary // 2,)), "past_len": Tensor(INT64, (batch,))}
    attributes = {
        "interleaved": 1, "attention_factor": 1.5, "temperature_alpha": 0.25, "original_max_position": 3
    }  # fmt: skip
    return Layer(DYNAMIC_ROPE.name, inputs, (q, k), attributes)


def attention_layer(
    type: int = BF16, batch: int = 2, seq: int = 5, heads: int = 4, kv_heads: int = 2, head_dim: int = 64,
    capacity: int = 96, cache: bool = True,
) -> Layer:  # fmt: skip
    """A layer of R1HLAAttention with a cache or without."""
    q, k = Tensor(type, (batch, seq, heads, head_dim)), Tensor(type, (batch, seq, kv_heads, head_dim))
    held = Tensor(type, (batch, kv_heads, capacity, head_dim))
    caches = {"key_cache": held, "value_cache": held} if cache else {}
    inputs = {
        "q": q, "k": k, "v": k, **caches, "lam": Tensor(FLOAT, (batch, seq, heads)),
        "past_len": Tensor(INT64, (batch,)), "seq_len": Tensor(INT64, (batch,)),
    }  # fmt: skip
    attributes = {
        "scale": 0.125,
        "block_size": 32,
        "inter_block": 1,
        "lam_skip": 0.25,
        "v_head_dim": head_dim,
    }
    return Layer(HLA_ATTENTION.name, inputs, (q, held, held) if cache else (q,), attributes)


def latent_attention_layer(
    type: int = BF16, batch: int = 1, seq: int = 2, heads: int = 4, head_dim: int = 576, value_dim: int = 512,
    capacity: int = 64,
) -> Layer:  # fmt: skip
    """A layer of R1HLAAttention whose values are the keys' first elements."""
    q, k = Tensor(type, (batch, seq, heads, head_dim)), Tensor(type, (batch, seq, 1, head_dim))
    held = Tensor(type, (batch, 1, capacity, head_dim))
    inputs = {
        "q": q, "k": k, "key_cache": held,
        "past_len": Tensor(INT64, (batch,)), "seq_len": Tensor(INT64, (batch,)),
    }  # fmt: skip
    y = Tensor(type, (batch, seq, heads, value_dim))
    attributes = {"scale": 0.0, "block_size": 32, "inter_block": 0, "lam_skip": 0.0, "v_head_dim": value_dim}
    return Layer(HLA_ATTENTION.name, inputs, (y, held), attributes)


def moe_layer(
    type: int = BF16, batch: int = 2, seq: int = 5, hidden: int = 64, experts: int = 8, width: int = 32,
    shared: int = 48, weights: int | None = None,
) -> Layer:  # fmt: skip
    """A layer of R1DynamicMoE; FP8 weights bring their scales."""
    held = type if weights is None else weights
    x = Tensor(type, (batch, seq, hidden))
    inputs = {
        "x": x,
        "seq_len": Tensor(INT64, (batch,)),
        "w_router": Tensor(FLOAT, (experts, hidden)),
        "router_bias": Tensor(FLOAT, (experts,)),
        "w_gate_up": Tensor(held, (experts, 2 * width, hidden)),
        "w_down": Tensor(held, (experts, hidden, width)),
    }
    if shared:
        inputs["shared_gate_up"] = Tensor(held, (2 * shared, hidden))
        inputs["shared_down"] = Tensor(held, (hidden, shared))
    if held == FP8:
        entries = (experts + (shared > 0),)
        inputs |= {"x_scale": Tensor(FLOAT, (1,)), "mid_scale": Tensor(FLOAT, ())}
        inputs |= {"gate_up_scale": Tensor(FLOAT, entries), "down_scale": Tensor(FLOAT, entries)}
    attributes = {
        "scoring": 1, "topk_method": 2, "top_k": 3, "top_k_min": 2, "adaptive_threshold": 0.75,
        "norm_topk_prob": 1, "routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2, "expert_parts": 1,
        "weight_only": 0,
    }  # fmt: skip
    return Layer(DYNAMIC_MOE.name, inputs, (x,), attributes)


def in_parts(layer: Layer, parts: int) -> Layer:
    """A layer of R1DynamicMoE with its experts in several parts."""
    (experts, _) = layer.inputs["w_router"].dims
    inputs = {name: tensor for name, tensor in layer.inputs.items() if name not in PARTED}
    for part in expert_parts(experts, parts):
        for name in set(PARTED) & set(layer.inputs):
            whole = layer.inputs[name]
            count, *rest = whole.dims
            behind = count - experts if part.index == 0 else 0  # the shared expert's scale
            inputs[part.input(name)] = Tensor(whole.type, (part.count + behind, *rest))
    return replace(layer, inputs=inputs).with_attributes(expert_parts=parts)


LAYERS: Mapping[str, Layer] = {
    "rope": rope_layer(),
    "attention": attention_layer(),
    "attention without a cache": attention_layer(cache=False),
    "attention without lam": attention_layer().without("lam"),
    "latent attention": latent_attention_layer(),
    "moe": moe_layer(),
    "moe without a shared expert": moe_layer(shared=0).without("router_bias"),
    "moe with FP8 weights": moe_layer(weights=FP8),
    "moe in parts": in_parts(moe_layer(weights=FP8), 3),
}
