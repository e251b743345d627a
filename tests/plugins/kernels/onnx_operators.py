"""The exported graph's three operators by the host-executed kernels, for ONNX's reference evaluator.

Activations and caches are rounded to the kernels' type at an operator's inputs and widened at its outputs, as
an engine of that type would hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from kernels.library import HostKernels
from onnx.reference.op_run import OpRun

from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.ops.operator import DOMAIN
from r1trt.ops.registry import OPERATORS
from r1trt.plugin_checks.cases.arrays import DTYPES, address, aligned, aligned_copy
from r1trt.plugin_checks.cases.params import AttentionParams, ExpertWeights, MoeParams, MoeWeight, RopeParams

Array = np.ndarray
Tensors = Mapping[str, Array | None]
Observer = Callable[[str, dict[str, Any], dict[str, Array | None], tuple[Array, ...]], None]
SM, NUM_SMS = 90, 8


class Kernels:
    """The operators' kernels behind the operators' own inputs and attributes.

    Args:
        library: Compiled kernels.
        data_type: Element type of activations, caches and expert weights.
    """

    def __init__(self, library: HostKernels, data_type: int) -> None:
        self.library, self.data_type, self.dtype = library, data_type, DTYPES[data_type]

    def rounded(self, array: Array) -> Array:
        """The array in the kernels' type."""
        return aligned_copy(array.astype(self.dtype))

    def rope(self, inputs: Tensors, attributes: Mapping[str, Any]) -> tuple[Array, ...]:
        """R1DynamicRoPE."""
        q, k = self.rounded(inputs["q"]), self.rounded(inputs["k"])
        inv_freq, past_len = aligned_copy(inputs["inv_freq"]), aligned_copy(inputs["past_len"])
        q_out, k_out = aligned(q.shape, q.dtype), aligned(k.shape, k.dtype)
        batch, seq, heads, head_dim = q.shape
        params = self.library.params(
            RopeParams, **attributes, data_type=self.data_type, batch=batch, seq=seq, heads=heads,
            kv_heads=k.shape[2], head_dim=head_dim, rotary_dim=2 * inv_freq.size, q=address(q), k=address(k),
            inv_freq=address(inv_freq), past_len=address(past_len), q_out=address(q_out),
            k_out=address(k_out),
        )  # fmt: skip
        self.library.check_launch(params)
        return q_out.astype(np.float32), k_out.astype(np.float32)

    def attention(self, inputs: Tensors, attributes: Mapping[str, Any]) -> tuple[Array, ...]:
        """R1HLAAttention; the caches that come back are copies."""
        named = {name: inputs[name] for name in ("q", "k", "v", "key_cache", "value_cache")}
        tensors = {name: self.rounded(array) for name, array in named.items() if array is not None}
        others = {
            name: aligned_copy(inputs[name])
            for name in ("lam", "past_len", "seq_len")
            if inputs[name] is not None
        }
        batch, seq, heads, head_dim = tensors["q"].shape
        y = aligned((batch, seq, heads, attributes["v_head_dim"]), self.dtype)
        params = self.library.params(
            AttentionParams, **attributes, data_type=self.data_type, batch=batch, seq=seq, heads=heads,
            kv_heads=tensors["k"].shape[2], qk_head_dim=head_dim, y=address(y), sm=SM, num_sms=NUM_SMS,
        )  # fmt: skip
        for name, array in {**tensors, **others}.items():
            setattr(params, name, address(array))
        if "key_cache" in tensors:
            params.cache_capacity = tensors["key_cache"].shape[2]
        self.library.check_launch(params)
        caches = (tensors[name] for name in ("key_cache", "value_cache") if name in tensors)
        return tuple(array.astype(np.float32) for array in (y, *caches))

    def moe(self, inputs: Tensors, attributes: Mapping[str, Any]) -> tuple[Array, ...]:
        """R1DynamicMoE with weights of the activations' type."""
        names = ("w_gate_up", "w_down", "shared_gate_up", "shared_down")
        weights = {name: self.rounded(inputs[name]) for name in names if inputs[name] is not None}
        others = {
            name: aligned_copy(inputs[name])
            for name in ("seq_len", "w_router", "router_bias")
            if inputs[name] is not None
        }
        x = self.rounded(inputs["x"])
        attributes = {name: value for name, value in attributes.items() if name != "weight_only"}
        y = aligned(x.shape, x.dtype)
        params = self.library.params(
            MoeParams, **attributes, data_type=self.data_type, weight_type=self.data_type, batch=x.shape[0],
            seq=x.shape[1], hidden=x.shape[2], experts=weights["w_down"].shape[0],
            width=weights["w_down"].shape[2],
            x=address(x), y=address(y), sm=SM,
        )  # fmt: skip
        for name, array in weights.items():
            weight = MoeWeight(address(array), None)
            routed = name.startswith("w_")
            setattr(params, name.removeprefix("w_"), ExpertWeights.of(weight) if routed else weight)
        if "shared_down" in weights:
            params.shared_width = weights["shared_down"].shape[1]
        for name, array in others.items():
            setattr(params, name, address(array))
        self.library.check_launch(params)
        return (y.astype(np.float32),)


def operator_classes(kernels: Kernels, observer: Observer | None = None) -> list[type[OpRun]]:
    """Implementations for `onnx.reference.ReferenceEvaluator`.

    Args:
        kernels: What computes them.
        observer: Sees every call: the operator's name, attributes, inputs by name and outputs.
    """
    calls = {
        DYNAMIC_ROPE.name: kernels.rope,
        HLA_ATTENTION.name: kernels.attention,
        DYNAMIC_MOE.name: kernels.moe,
    }

    def implementation(name: str, call: Callable[..., tuple[Array, ...]]) -> type[OpRun]:
        operator = OPERATORS[name]

        def run(self: OpRun, *values: Array | None, **_: Any) -> tuple[Array, ...]:
            inputs = dict.fromkeys(operator.inputs) | dict(zip(operator.inputs, values, strict=False))
            attributes = {key: getattr(self, key) for key in operator.attributes}
            outputs = call(inputs, attributes)
            if observer is not None:
                observer(name, attributes, inputs, outputs)
            return outputs

        return type(name, (OpRun,), {"op_domain": DOMAIN, "_run": run})

    return [implementation(name, call) for name, call in calls.items()]
