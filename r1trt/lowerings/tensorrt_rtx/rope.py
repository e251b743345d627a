"""R1DynamicRoPE for TensorRT-RTX: angles and rotation in FP32, one rounding to the activation type.

`RotaryEmbedding` wants its `cos` and `sin` in the type of what it rotates, and BF16 angles lose positions
beyond 256, so queries and keys are rotated in FP32.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import Body, to_float
from r1trt.lowerings.builder import arange, dim
from r1trt.ops.dynamic_rope import RopeSpec


def _temperature(op: OpBuilder, spec: RopeSpec, position_BS: ir.Value) -> ir.Value:
    """1 + alpha * ln(max(position / original, 1)), [B,S,1]; no `Where` is needed, since ln(1) = 0."""
    ratio = op.Max(op.Div(position_BS, float(spec.original_max_position)), 1.0)
    factor = op.Add(op.Mul(op.Log(ratio), spec.temperature_alpha), 1.0)
    expanded: ir.Value = op.Unsqueeze(factor, [2])
    return expanded


def _cos_sin(op: OpBuilder, spec: RopeSpec, position_BS: ir.Value, inv_freq: ir.Value) -> list[ir.Value]:
    """Cos and sin [B,S,r/2], each times the attention factor and the position's temperature."""
    angle = op.Mul(op.Unsqueeze(position_BS, [2]), inv_freq)
    parts = [op.Cos(angle), op.Sin(angle)]
    if spec.has_temperature:
        factor = _temperature(op, spec, position_BS)
        parts = [op.Mul(part, factor) for part in parts]
    if spec.attention_factor != 1.0:
        parts = [op.Mul(part, spec.attention_factor) for part in parts]
    return parts


def _rotate(op: OpBuilder, spec: RopeSpec, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
    """Rotate x [B,S,h,d]."""
    partial = {} if spec.rotary_dim == spec.head_dim else {"rotary_embedding_dim": spec.rotary_dim}
    rotated = op.RotaryEmbedding(
        op.Transpose(to_float(op, x), perm=[0, 2, 1, 3]),
        cos,
        sin,
        interleaved=int(spec.interleaved),
        **partial,
    )
    y: ir.Value = op.CastLike(op.Transpose(rotated, perm=[0, 2, 1, 3]), x)
    return y


def rope_body(spec: RopeSpec) -> Body:
    """Rotate q [B,S,H,d] and k [B,S,Hkv,d] at the positions past_len[b] + s (spec section 3)."""

    def body(
        op: OpBuilder, q: ir.Value, k: ir.Value, inv_freq: ir.Value, past_len: ir.Value
    ) -> list[ir.Value]:
        position_BS = to_float(op, op.Add(op.Unsqueeze(past_len, [1]), arange(op, dim(op, q, 1))))
        cos, sin = _cos_sin(op, spec, position_BS, inv_freq)
        return [_rotate(op, spec, q, cos, sin), _rotate(op, spec, k, cos, sin)]

    return body
