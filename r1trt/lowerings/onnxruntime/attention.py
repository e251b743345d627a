"""R1HLAAttention for ONNX Runtime: only the branches, and of the full one only the pairs, that count.

Arithmetic is FP32. A cache of another type is widened where it is read, the tokens that are read alone.

Legend: B batch, S tokens of this call, H = Hkv * G query heads, C keys that are held, L the longest sequence
after this call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import Body
from r1trt.lowerings.builder import BOOL, FLOAT, arange, as_float, dim, dims, subgraph
from r1trt.lowerings.onnxruntime.block import block_attention
from r1trt.lowerings.onnxruntime.full import full_attention_of_pairs
from r1trt.ops.hla_attention import AttentionSpec

FEW_TOKENS = 8
"""Tokens of a call up to which all pairs are attended to at once: taking pairs apart would cost more."""

Branch = Callable[[OpBuilder], ir.Value]


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What a call attends with.

    Attributes:
        q: Queries [B,S,H,d].
        keys: Keys that are held [B,Hkv,C,d], those of this call among them, in the cache's type.
        values: Values that are held [B,Hkv,C,dv], likewise; the keys in the latent form.
        length: L, int64 [1].
        past_len: Tokens in front of this call [B].
        seq_len: Tokens of this call that are real [B].
        token_S: 0, 1, ... S - 1.
    """

    q: ir.Value
    keys: ir.Value
    values: ir.Value
    length: ir.Value
    past_len: ir.Value
    seq_len: ir.Value
    token_S: ir.Value


def _all_pairs(op: OpBuilder, spec: AttentionSpec, call: _Call) -> ir.Value:
    """Causal softmax attention of all queries over all L keys; [B,S,H,dv]."""
    keys = as_float(op, op.Slice(call.keys, [0], call.length, [2]), spec.cache)
    if spec.latent:
        values = op.Slice(keys, [0], [spec.v_head_dim], [3])
    else:
        values = as_float(op, op.Slice(call.values, [0], call.length, [2]), spec.cache)
    position_BS = op.Add(op.Unsqueeze(call.past_len, [1]), call.token_S)
    visible = op.LessOrEqual(arange(op, call.length), op.Unsqueeze(position_BS, [1, 3]))
    out = op.Attention(op.Transpose(call.q, perm=[0, 2, 1, 3]), keys, values, visible, scale=spec.scale)
    y: ir.Value = op.Transpose(out, perm=[0, 2, 1, 3])
    return y


def _effective_lam(op: OpBuilder, spec: AttentionSpec, lam: ir.Value) -> ir.Value:
    """Lam [B,S,H] with the skipped ranges set to 0 and 1."""
    if spec.lam_skip > 0:
        lam = op.Where(op.Less(lam, spec.lam_skip), 0.0, lam)
        lam = op.Where(op.Greater(lam, 1.0 - spec.lam_skip), 1.0, lam)
    return lam


def _if(op: OpBuilder, name: str, condition: ir.Value, branch: Branch, otherwise: Branch) -> ir.Value:
    """One of two FLOAT results by a bool scalar."""

    def output(suffix: str) -> list[ir.Value]:
        return [ir.Value(name=f"{name}_{suffix}", type=ir.TensorType(FLOAT))]

    then_branch = subgraph(op, f"{name}_branch", lambda inner: branch(inner), [], output("then"))
    else_branch = subgraph(op, f"{name}_skipped", lambda inner: otherwise(inner), [], output("else"))
    result: ir.Value = op.If(condition, then_branch=then_branch, else_branch=else_branch)
    return result


def _full(op: OpBuilder, spec: AttentionSpec, call: _Call, wanted: ir.Value) -> ir.Value:
    """The full branch for the pairs that are wanted; [B,S,H,dv]. There is one, unless no token is real."""

    def pairs(inner: OpBuilder) -> ir.Value:
        return full_attention_of_pairs(
            inner, spec, call.q, call.keys, call.values, wanted, call.past_len, call.seq_len
        )

    many = op.Greater(op.Squeeze(dim(op, call.q, 1)), FEW_TOKENS)
    some = op.Greater(op.ReduceMax(call.seq_len, keepdims=0), 0)
    return _if(op, "pairs", op.And(many, some), pairs, lambda inner: _all_pairs(inner, spec, call))


def _mix(op: OpBuilder, spec: AttentionSpec, call: _Call, lam_BSH: ir.Value, real: ir.Value) -> ir.Value:
    """Mix lam * full + (1 - lam) * block; a branch that no real token and head weighs is not computed."""
    lam = _effective_lam(op, spec, lam_BSH)
    wanted = op.And(real, op.Greater(lam, 0.0))
    wants_full = op.Cast(op.ReduceMax(op.Cast(wanted, to=FLOAT), keepdims=0), to=BOOL)
    wants_block = op.Less(op.ReduceMin(op.Where(real, lam, 1.0), keepdims=0), 1.0)

    def block(inner: OpBuilder) -> ir.Value:
        return block_attention(inner, spec, call.q, call.keys, call.values, call.length, call.past_len)

    def nothing(inner: OpBuilder) -> ir.Value:
        zeros: ir.Value = inner.Expand(
            0.0, dims(inner, *(dim(inner, call.q, axis) for axis in range(3)), spec.v_head_dim)
        )
        return zeros

    full = _if(op, "full", wants_full, lambda inner: _full(inner, spec, call, wanted), nothing)
    near = _if(op, "block", wants_block, block, nothing)
    weight = op.Unsqueeze(lam, [3])
    mixed: ir.Value = op.Add(op.Mul(weight, full), op.Mul(op.Sub(1.0, weight), near))
    return mixed


def _attend(op: OpBuilder, spec: AttentionSpec, call: _Call, lam: ir.Value) -> ir.Value:
    """[B,S,H,dv]; without a gate all pairs of real tokens take the full branch."""
    real = op.Unsqueeze(op.Less(op.Unsqueeze(call.token_S, [0]), op.Unsqueeze(call.seq_len, [1])), [2])
    if spec.has_lam:
        return _mix(op, spec, call, lam, real)
    return _full(op, spec, call, op.Expand(real, dims(op, 1, 1, spec.num_heads)))


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
        caches: list[ir.Value] = []

        def held(new: ir.Value, cache: ir.Value) -> ir.Value:
            """Keys or values of the whole sequences, whose cache is updated where there is one."""
            new = op.Transpose(new, perm=[0, 2, 1, 3])
            if spec.capacity is None:
                return new
            if spec.cache != FLOAT:
                new = op.Cast(new, to=spec.cache)
            caches.append(op.TensorScatter(cache, new, past_len, axis=2))
            return caches[-1]

        keys = held(k, key_cache)
        call = _Call(
            q=q,
            keys=keys,
            values=keys if spec.latent else held(v, value_cache),
            length=_length(op, spec, tokens, past_len),
            past_len=past_len,
            seq_len=seq_len,
            token_S=arange(op, tokens),
        )
        return [_attend(op, spec, call, lam), *caches]

    return body
