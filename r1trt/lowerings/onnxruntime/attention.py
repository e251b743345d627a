"""R1HLAAttention for ONNX Runtime: cached keys up to the longest sequence, and only the branches that count.

Inside: q [B,H,S,d], keys [B,Hkv,L,d], values [B,Hkv,L,dv], L = the longest sequence after this call. G = H
/ Hkv. In the latent form values are the first dv elements of keys.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import Body
from r1trt.lowerings.builder import FLOAT, arange, dim, dims, subgraph
from r1trt.lowerings.onnxruntime.block import block_attention
from r1trt.ops.hla_attention import AttentionSpec


def _full_attention(
    op: OpBuilder,
    spec: AttentionSpec,
    q: ir.Value,
    keys: ir.Value,
    values: ir.Value,
    length: ir.Value,
    position_BS: ir.Value,
) -> ir.Value:
    """Causal softmax attention over all L keys; [B,H,S,dv]."""
    key_index = arange(op, length)
    visible = op.LessOrEqual(key_index, op.Unsqueeze(position_BS, [1, 3]))
    out: ir.Value = op.Attention(q, keys, values, visible, scale=spec.scale)
    return out


def _values_in(op: OpBuilder, spec: AttentionSpec, keys: ir.Value) -> ir.Value:
    """The values of latent keys."""
    values: ir.Value = op.Slice(keys, [0], [spec.v_head_dim], [3])
    return values


def _effective_lam(op: OpBuilder, spec: AttentionSpec, lam_BSH: ir.Value) -> ir.Value:
    """Lam with the skipped ranges set to 0 and 1, as [B,H,S,1]."""
    lam = op.Unsqueeze(op.Transpose(lam_BSH, perm=[0, 2, 1]), [3])
    if spec.lam_skip > 0:
        lam = op.Where(op.Less(lam, spec.lam_skip), 0.0, lam)
        lam = op.Where(op.Greater(lam, 1.0 - spec.lam_skip), 1.0, lam)
    result: ir.Value = lam
    return result


def _if_any(
    op: OpBuilder, name: str, needed: ir.Value, branch: Callable[[OpBuilder], ir.Value], zeros: ir.Value
) -> ir.Value:
    """The branch's result where `needed` (bool scalar), else zeros."""

    def output(suffix: str) -> list[ir.Value]:
        return [ir.Value(name=f"{name}_{suffix}", type=ir.TensorType(FLOAT))]

    then_branch = subgraph(op, f"{name}_branch", lambda inner: branch(inner), [], output("then"))
    else_branch = subgraph(op, f"{name}_skipped", lambda inner: inner.Identity(zeros), [], output("else"))
    result: ir.Value = op.If(needed, then_branch=then_branch, else_branch=else_branch)
    return result


def _mix(
    op: OpBuilder,
    spec: AttentionSpec,
    q: ir.Value,
    keys: ir.Value,
    values: ir.Value,
    lam_BSH: ir.Value,
    length: ir.Value,
    past_len: ir.Value,
    position_BS: ir.Value,
    real_BS: ir.Value,
) -> ir.Value:
    """Mix lam * full + (1 - lam) * block; a branch that no real token and head weighs is not computed."""
    lam = _effective_lam(op, spec, lam_BSH)
    real = op.Unsqueeze(real_BS, [1, 3])
    wants_full = op.Cast(op.ReduceMax(op.Where(real, lam, 0.0), keepdims=0), to=ir.DataType.BOOL)
    wants_block = op.Less(op.ReduceMin(op.Where(real, lam, 1.0), keepdims=0), 1.0)
    zeros = op.Expand(0.0, dims(op, dim(op, q, 0), spec.num_heads, dim(op, q, 2), spec.v_head_dim))
    full = _if_any(
        op,
        "full",
        wants_full,
        lambda inner: _full_attention(inner, spec, q, keys, values, length, position_BS),
        zeros,
    )
    block = _if_any(
        op, "block", wants_block, lambda inner: block_attention(inner, spec, q, keys, values, past_len), zeros
    )
    mixed: ir.Value = op.Add(op.Mul(lam, full), op.Mul(op.Sub(1.0, lam), block))
    return mixed


def _length(op: OpBuilder, spec: AttentionSpec, tokens: ir.Value, past_len: ir.Value) -> ir.Value:
    """L, int64 [1]; in all layers of a graph one expression of its inputs."""
    if spec.capacity is None:
        return tokens
    length: ir.Value = op.Add(op.Reshape(op.ReduceMax(past_len, keepdims=0), [1]), tokens)
    return length


def attention_body(spec: AttentionSpec) -> Body:
    """Write this call's keys and values to the cache and attend over it (spec section 2).

    Rows behind a sequence's real tokens hold garbage that causality hides and the next call overwrites.
    """

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
        tokens = dim(op, q, 1)
        token_S, length = arange(op, tokens), _length(op, spec, tokens, past_len)
        position_BS = op.Add(op.Unsqueeze(past_len, [1]), token_S)
        caches: list[ir.Value] = []

        def all_of(new: ir.Value, cache: ir.Value) -> ir.Value:
            """Keys or values of the whole sequences, whose cache is updated where there is one."""
            new = op.Transpose(new, perm=[0, 2, 1, 3])
            if spec.capacity is None:
                return new
            caches.append(op.TensorScatter(cache, new, past_len, axis=2))
            known: ir.Value = op.Slice(caches[-1], [0], length, [2])
            return known

        q, keys = op.Transpose(q, perm=[0, 2, 1, 3]), all_of(k, key_cache)
        values = _values_in(op, spec, keys) if spec.latent else all_of(v, value_cache)
        if spec.has_lam:
            real_BS = op.Less(op.Unsqueeze(token_S, [0]), op.Unsqueeze(seq_len, [1]))
            y = _mix(op, spec, q, keys, values, lam, length, past_len, position_BS, real_BS)
        else:
            y = _full_attention(op, spec, q, keys, values, length, position_BS)
        return [op.Transpose(y, perm=[0, 2, 1, 3]), *caches]

    return body
