"""Attention with grouped queries, hybrid-length or ordinary: one R1HLAAttention over a cache.

Legend: B batch, S tokens of this call, C cache capacity, H query heads, Hkv key/value heads, d head size.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from r1trt.config import GqaConfig
from r1trt.export.forward import FLOAT, Attended, Forward, linear, reshape, rms_norm, sizes
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.ops.lambda_gate import LAMBDA_GATE


def gqa_attention(forward: Forward, index: int, config: GqaConfig, x: ir.Value) -> Attended:
    """Emit the attention of layer `index` for x [B,S,D]."""
    emit, prefix = forward.emit, f"model.layers.{index}.self_attn"
    q = _heads(forward, prefix, "q", x, config, norm=config.qk_norm)
    k = _heads(forward, prefix, "k", x, config, norm=config.qk_norm)
    v = _heads(forward, prefix, "v", x, config, norm=False)
    q, k = _rope(forward, f"{prefix}.rope", config, q, k)
    lam = _lambda_gate(forward, f"{prefix}.lam_gate", x, config.num_heads) if config.hla.gate else None
    attended = _attend(forward, index, config, {"q": q, "k": k, "v": v}, lam)
    width = config.q_width
    merged = reshape(emit, f"{prefix}.merge_heads", attended.y, [0, 0, width], ("B", "S", width))
    y = linear(emit, f"{prefix}.o_proj", merged, bias=config.o_bias)
    return Attended(y=y, caches=attended.caches)


def _heads(
    forward: Forward, prefix: str, which: str, x: ir.Value, config: GqaConfig, *, norm: bool
) -> ir.Value:
    """q, k or v as heads [B,S,heads,d]."""
    heads, size = config.num_heads if which == "q" else config.num_kv_heads, config.head_dim
    y = linear(forward.emit, f"{prefix}.{which}_proj", x, bias=config.qkv_bias)
    shape = ("B", "S", heads, size)
    y = reshape(forward.emit, f"{prefix}.{which}_heads", y, [0, 0, heads, size], shape)
    return rms_norm(forward, f"{prefix}.{which}_norm", y) if norm else y


def _rope(
    forward: Forward, name: str, config: GqaConfig, q: ir.Value, k: ir.Value
) -> tuple[ir.Value, ir.Value]:
    spec = DYNAMIC_ROPE.spec_from_config(config, forward.model.rope, forward.attention_factor)
    inputs = {"q": q, "k": k, "inv_freq": forward.inv_freq, "past_len": forward.past_len}
    outputs = [(FLOAT, sizes(q)), (FLOAT, sizes(k))]
    q, k = forward.emit.operator(DYNAMIC_ROPE, name, inputs, outputs, spec.attributes())
    return q, k


def _attend(
    forward: Forward, index: int, config: GqaConfig, qkv: Mapping[str, ir.Value], lam: ir.Value | None
) -> Attended:
    shape = ("B", config.num_kv_heads, forward.capacity, config.head_dim)
    caches = {
        cache.input: forward.emit.input(f"{cache.input}.{index}", FLOAT, shape)
        for cache in HLA_ATTENTION.caches
    }
    spec = HLA_ATTENTION.spec_from_config(config, forward.capacity)
    y, *updated = forward.emit.operator(
        HLA_ATTENTION,
        f"model.layers.{index}.self_attn.attention",
        {**qkv, **caches, "lam": lam, "past_len": forward.past_len, "seq_len": forward.seq_len},
        [(FLOAT, sizes(qkv["q"])), *((FLOAT, shape) for _ in caches)],
        spec.attributes(),
    )
    names = [f"{cache.output}.{index}" for cache in HLA_ATTENTION.caches]
    return Attended(y=y, caches=dict(zip(names, updated, strict=True)))


def _lambda_gate(forward: Forward, name: str, x: ir.Value, num_heads: int) -> ir.Value:
    weights = {"w": forward.emit.weight(f"{name}.weight"), "b": forward.emit.weight(f"{name}.bias")}
    outputs = [(FLOAT, ("B", "S", num_heads))]
    return forward.emit.operator(LAMBDA_GATE, name, {"x": x, **weights}, outputs)[0]
