"""R1DynamicRoPE for ONNX Runtime."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import Body, to_float
from r1trt.lowerings.builder import arange, dim
from r1trt.ops.dynamic_rope import RopeSpec


def _cos_sin(op: OpBuilder, spec: RopeSpec, position_BS: ir.Value, inv_freq: ir.Value) -> list[ir.Value]:
    """Cos and sin [B,S,r/2], each times the attention factor and the position's temperature."""
    angle = op.Mul(op.Unsqueeze(position_BS, [2]), inv_freq)
    parts = [op.Cos(angle), op.Sin(angle)]
    if spec.has_temperature:
        ratio = op.Max(op.Div(position_BS, float(spec.original_max_position)), 1.0)
        factor = op.Add(op.Mul(op.Log(ratio), spec.temperature_alpha), 1.0)
        parts = [op.Mul(part, op.Unsqueeze(factor, [2])) for part in parts]
    if spec.attention_factor != 1.0:
        parts = [op.Mul(part, spec.attention_factor) for part in parts]
    return parts


def rope_body(spec: RopeSpec) -> Body:
    """Rotate q [B,S,H,d] and k [B,S,Hkv,d] at the positions past_len[b] + s (spec section 3)."""

    def rotate(op: OpBuilder, x: ir.Value, heads: int, cos: ir.Value, sin: ir.Value) -> ir.Value:
        flat = op.RotaryEmbedding(
            op.Reshape(x, [0, 0, heads * spec.head_dim]),
            cos,
            sin,
            num_heads=heads,
            interleaved=int(spec.interleaved),
            rotary_embedding_dim=0 if spec.rotary_dim == spec.head_dim else spec.rotary_dim,
        )
        rotated: ir.Value = op.Reshape(flat, [0, 0, heads, spec.head_dim])
        return rotated

    def body(
        op: OpBuilder, q: ir.Value, k: ir.Value, inv_freq: ir.Value, past_len: ir.Value
    ) -> list[ir.Value]:
        position_BS = to_float(op, op.Add(op.Unsqueeze(past_len, [1]), arange(op, dim(op, q, 1))))
        cos, sin = _cos_sin(op, spec, position_BS, inv_freq)
        return [rotate(op, q, spec.num_heads, cos, sin), rotate(op, k, spec.num_kv_heads, cos, sin)]

    return body
