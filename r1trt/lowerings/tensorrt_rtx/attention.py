"""R1HLAAttention for TensorRT-RTX: the full branch always, the block branch over gathered blocks.

Inside: q [B,H,S,d], keys and values [B,Hkv,L,d]; L is the capacity, or this call's tokens without a cache.
In the latent form values are the first dv elements of keys, which no fused kernel takes.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.errors import ExportError
from r1trt.graph.functions import Body, to_float
from r1trt.lowerings.builder import FLOAT, arange, dim, dims
from r1trt.lowerings.tensorrt_rtx.block import block_attention
from r1trt.ops.hla_attention import AttentionSpec

HEADS_FIRST = [0, 2, 1, 3]
# NOTES: outside of these TensorRT-RTX 1.7's Attention ends in a check of the builder's own ("Attention
# operation was not supported"), on SM80, SM89 and SM120 alike; the import says nothing.
FUSED_HEAD_MULTIPLE = 8
FUSED_HEAD_DIMS = range(16, 257)
FUSED_LEAST_HEADS = 4


def _check(spec: AttentionSpec) -> None:
    if spec.v_head_dim != spec.head_dim and (spec.has_lam or not spec.latent):
        raise ExportError(
            "TensorRT's own Attention needs equal head sizes of keys and values.",
            found=f"head_dim {spec.head_dim}, v_head_dim {spec.v_head_dim}",
            fix="build for a backend that has the operator's plugin",
        )
    if spec.has_lam and spec.capacity is not None and spec.capacity % spec.block_size:
        raise ExportError(
            "The block branch cuts the cache into whole blocks.",
            found=f"capacity {spec.capacity}, block size {spec.block_size}",
            expected="a capacity that the block size divides",
            fix=f"use --max-seq-len {-(-spec.capacity // spec.block_size) * spec.block_size}",
        )


def _visible(op: OpBuilder, spec: AttentionSpec, keys: ir.Value, position_BS: ir.Value) -> ir.Value:
    """Causality as bool [B,1,S,L]."""
    size = dim(op, keys, 2) if spec.capacity is None else op.Constant(value_ints=[spec.capacity])
    mask: ir.Value = op.LessOrEqual(arange(op, size), op.Unsqueeze(position_BS, [1, 3]))
    return mask


def _fused_head_dim(spec: AttentionSpec) -> int:
    """A head's size with what is added for the fused kernel."""
    return -(-spec.head_dim // FUSED_HEAD_MULTIPLE) * FUSED_HEAD_MULTIPLE


def _is_fused(spec: AttentionSpec) -> bool:
    """Whether a fused kernel takes it."""
    return (
        spec.activation != FLOAT
        and not spec.latent
        and spec.num_heads >= FUSED_LEAST_HEADS
        and _fused_head_dim(spec) in FUSED_HEAD_DIMS
    )


def _fused(
    op: OpBuilder, spec: AttentionSpec, q: ir.Value, keys: ir.Value, values: ir.Value, visible: ir.Value
) -> ir.Value:
    # Zeros behind a head change no score, and give zeros behind the result.
    missing = _fused_head_dim(spec) - spec.head_dim
    if missing:
        q, keys, values = (op.Pad(x, [0, missing], None, [3]) for x in (q, keys, values))
    out: ir.Value = op.Attention(q, keys, values, visible, scale=spec.scale)
    return op.Slice(out, [0], [spec.v_head_dim], [3]) if missing else out


def _primitive(
    op: OpBuilder, spec: AttentionSpec, q: ir.Value, keys: ir.Value, values: ir.Value, visible: ir.Value
) -> ir.Value:
    """For what no fused kernel takes: a key head's G query heads are rows of one product.

    Scores and softmax are FP32 whatever the activations are.
    """
    grouped = dims(op, 0, spec.num_kv_heads, spec.group, -1, spec.head_dim)
    rows = op.Reshape(op.Reshape(q, grouped), dims(op, 0, spec.num_kv_heads, -1, spec.head_dim))
    scores = to_float(op, op.MatMul(rows, op.Transpose(keys, perm=[0, 1, 3, 2])))
    scores = op.Mul(scores, spec.scale)
    scores = op.Reshape(scores, dims(op, 0, spec.num_kv_heads, spec.group, dim(op, q, 2), dim(op, keys, 2)))
    probability = op.Softmax(op.Where(op.Unsqueeze(visible, [1]), scores, float("-inf")), axis=-1)
    probability = op.CastLike(probability, q)
    probability = op.Reshape(probability, dims(op, 0, spec.num_kv_heads, -1, dim(op, keys, 2)))
    weighted = op.MatMul(probability, values)
    out: ir.Value = op.Reshape(weighted, dims(op, 0, spec.num_heads, -1, spec.v_head_dim))
    return out


def _mix(op: OpBuilder, spec: AttentionSpec, lam_BSH: ir.Value, full: ir.Value, block: ir.Value) -> ir.Value:
    """Lam * full + (1 - lam) * block in FP32, for full and block [B,S,H,d]."""
    if spec.lam_skip > 0:
        lam_BSH = op.Where(op.Less(lam_BSH, spec.lam_skip), 0.0, lam_BSH)
        lam_BSH = op.Where(op.Greater(lam_BSH, 1.0 - spec.lam_skip), 1.0, lam_BSH)
    lam = op.Unsqueeze(lam_BSH, [3])
    near = to_float(op, block)
    # A difference would lose the last bits at lam = 1, where the result must be the full branch alone.
    mixed = op.Add(op.Mul(lam, to_float(op, full)), op.Mul(op.Sub(1.0, lam), near))
    y: ir.Value = op.CastLike(mixed, full)
    return y


def attention_body(spec: AttentionSpec) -> Body:
    """Write this call's keys and values to the cache and attend over it (spec section 2).

    Rows behind a sequence's real tokens hold garbage that causality hides and the next call overwrites.

    FLOAT, latents, fewer than 4 heads and heads of at most 8 or more than 256 elements attend by
    primitives, others in one kernel. Raises ExportError where keys and
    values differ in head size, or the block size does not divide the capacity.
    """
    _check(spec)
    attend = _fused if _is_fused(spec) else _primitive

    def body(
        op: OpBuilder,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        key_cache: ir.Value,
        value_cache: ir.Value,
        lam: ir.Value,
        past_len: ir.Value,
        seq_len: ir.Value,
    ) -> list[ir.Value]:
        position_BS = op.Add(op.Unsqueeze(past_len, [1]), arange(op, dim(op, q, 1)))
        caches: list[ir.Value] = []

        def all_of(new: ir.Value, cache: ir.Value) -> ir.Value:
            """The updated cache of keys or values, or the call's own where there is none."""
            new = op.Transpose(new, perm=HEADS_FIRST)
            if spec.capacity is not None:
                new = op.TensorScatter(cache, new, past_len, axis=2)
                caches.append(new)
            return new

        q, keys = op.Transpose(q, perm=HEADS_FIRST), all_of(k, key_cache)
        values = op.Slice(keys, [0], [spec.v_head_dim], [3]) if spec.latent else all_of(v, value_cache)
        full = attend(op, spec, q, keys, values, _visible(op, spec, keys, position_BS))
        y = op.Transpose(full, perm=HEADS_FIRST)
        if spec.has_lam:
            block = block_attention(op, spec, q, keys, values, past_len)
            y = _mix(op, spec, lam, y, op.Transpose(block, perm=HEADS_FIRST))
        return [y, *caches]

    return body
