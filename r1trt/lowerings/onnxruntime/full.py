"""The full branch of R1HLAAttention over chosen (token, head) pairs: what no pair asks for is not computed.

Pairs of heads that share keys are gathered into rows, in the order of their positions, and the rows are taken
in tiles whose scores stay in a processor's cache. Keys in front of a tile's first position are seen by all of
its rows, so that only the scores behind it are masked.

Legend: B batch, S tokens of this call, H = Hkv * G query heads, C keys that are held, U = those of the B *
Hkv key heads that any pair asks for, P = S * G pairs of one of them, R rows that were chosen of these, T
rows of a tile, N tiles, L keys that a sequence has after this call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import Body
from r1trt.lowerings.builder import BOOL, FLOAT, INT64, arange, as_float, dim, dims, subgraph
from r1trt.ops.hla_attention import AttentionSpec

TILE_SCORES = 1 << 18
"""Scores of a tile, roughly: a megabyte, which half of a core's second-level cache holds."""

TILE_ROWS = 64
"""Rows of a tile at least, however many keys they see: keys are packed anew for every tile."""


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """A call's pairs by key head.

    Attributes:
        count: P, int64 [1].
        q: Queries [B*Hkv*P,d].
        wanted: FLOAT [B*Hkv,P], 0 where a pair is not.
        active_U: Key heads that any pair asks for.
    """

    count: ir.Value
    q: ir.Value
    wanted: ir.Value
    active_U: ir.Value


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows of one key head.

    Attributes:
        q_RD: Queries, scaled.
        position_R: Positions, ascending.
        keys_LD: Keys of the sequence.
        values_LD: Values of the sequence.
    """

    q_RD: ir.Value
    position_R: ir.Value
    keys_LD: ir.Value
    values_LD: ir.Value


def full_attention_of_pairs(
    op: OpBuilder,
    spec: AttentionSpec,
    q: ir.Value,
    keys: ir.Value,
    values: ir.Value,
    wanted: ir.Value,
    past_len: ir.Value,
    seq_len: ir.Value,
) -> ir.Value:
    """Causal softmax attention for the pairs that are wanted.

    Args:
        op: Where nodes go.
        spec: The attention.
        q: Queries [B,S,H,d].
        keys: Keys that are held [B,Hkv,C,d], in the cache's type.
        values: Values that are held [B,Hkv,C,dv], likewise; in the latent form the keys.
        wanted: Bool [B,S,H]; at least one is true.
        past_len: Tokens in front of this call [B].
        seq_len: Tokens of this call that are real [B].

    Returns:
        [B,S,H,dv], 0 for pairs that are not wanted.
    """
    pairs, length_B = _pairs(op, spec, q, wanted), op.Add(past_len, seq_len)

    def turn(inner: OpBuilder, step: ir.Value, go_on: ir.Value) -> list[ir.Value]:
        which = inner.Gather(pairs.active_U, step, axis=0)
        pair_R = inner.Squeeze(inner.NonZero(inner.Gather(pairs.wanted, which, axis=0)), [0])
        rows = _rows(inner, spec, pairs, which, pair_R, (keys, values), past_len, length_B)
        taken, y = _in_tiles(inner, spec, rows)
        place = inner.Unsqueeze(inner.Gather(pair_R, taken, axis=0), [1])
        zeros = inner.Expand(0.0, inner.Concat(pairs.count, [spec.v_head_dim], axis=0))
        return [inner.Identity(go_on), inner.ScatterND(zeros, place, y)]

    y_UPD = _loop(op, "full", op.Squeeze(dim(op, pairs.active_U, 0)), turn, ("P", spec.v_head_dim))
    return _by_token(op, spec, q, pairs, y_UPD)


def _pairs(op: OpBuilder, spec: AttentionSpec, q: ir.Value, wanted: ir.Value) -> _Pairs:
    """Lay q [B,S,H,d] and wanted [B,S,H] out by key head, then by token, then by query head."""
    heads, group = spec.num_kv_heads, spec.group
    count = op.Mul(dim(op, q, 1), group)
    by_head = op.Transpose(op.Reshape(q, dims(op, 0, 0, heads, group, spec.head_dim)), perm=[0, 2, 1, 3, 4])
    flags = op.Transpose(op.Reshape(wanted, dims(op, 0, 0, heads, group)), perm=[0, 2, 1, 3])
    flags = op.Reshape(op.Cast(flags, to=FLOAT), op.Concat([-1], count, axis=0))
    return _Pairs(
        count=count,
        q=op.Reshape(by_head, [-1, spec.head_dim]),
        wanted=flags,
        active_U=op.Squeeze(op.NonZero(op.ReduceMax(flags, [1], keepdims=0)), [0]),
    )


def _rows(
    op: OpBuilder,
    spec: AttentionSpec,
    pairs: _Pairs,
    which: ir.Value,
    pair_R: ir.Value,
    held: tuple[ir.Value, ir.Value],
    past_len: ir.Value,
    length_B: ir.Value,
) -> _Rows:
    """What the chosen pairs of a key head attend with."""
    row, head = op.Div(which, spec.num_kv_heads), op.Mod(which, spec.num_kv_heads)
    length = op.Gather(length_B, row, axis=0)
    q_RD = op.Gather(pairs.q, op.Add(pair_R, op.Mul(which, pairs.count)), axis=0)
    keys = _of_head(op, held[0], row, head, length)
    values = _of_head(op, held[1], row, head, length, spec.v_head_dim if spec.latent else None)
    return _Rows(
        q_RD=op.Mul(q_RD, spec.scale),
        position_R=op.Add(op.Div(pair_R, spec.group), op.Gather(past_len, row, axis=0)),
        keys_LD=as_float(op, keys, spec.cache),
        values_LD=as_float(op, values, spec.cache),
    )


def _by_token(op: OpBuilder, spec: AttentionSpec, q: ir.Value, pairs: _Pairs, y_UPD: ir.Value) -> ir.Value:
    """Results of the active key heads, and 0 for the others, as [B,S,H,dv]."""
    width = spec.v_head_dim
    zeros = op.Expand(0.0, op.Concat(dim(op, pairs.wanted, 0), pairs.count, [width], axis=0))
    y = op.ScatterND(zeros, op.Unsqueeze(pairs.active_U, [1]), y_UPD)
    shape = op.Concat(dim(op, q, 0), [spec.num_kv_heads], dim(op, q, 1), [spec.group, width], axis=0)
    y = op.Transpose(op.Reshape(y, shape), perm=[0, 2, 1, 3, 4])
    y_BSHD: ir.Value = op.Reshape(y, dims(op, 0, 0, spec.num_heads, width))
    return y_BSHD


def _of_head(
    op: OpBuilder, held: ir.Value, row: ir.Value, head: ir.Value, length: ir.Value, width: int | None = None
) -> ir.Value:
    """What one head holds of a sequence, [L,w]: the first `width` elements of each token, or all."""
    starts: list[ir.Value | int] = [row, head, 0]
    ends: list[ir.Value | int] = [op.Add(row, 1), op.Add(head, 1), length]
    axes = [0, 1, 2]
    if width is not None:
        starts, ends, axes = [*starts, 0], [*ends, width], [*axes, 3]
    part = op.Slice(held, _numbers(op, starts), _numbers(op, ends), axes)
    result: ir.Value = op.Squeeze(part, [0, 1])
    return result


def _numbers(op: OpBuilder, numbers: Sequence[ir.Value | int]) -> ir.Value:
    """Scalars and constants as one int64 vector."""
    parts = [[n] if isinstance(n, int) else op.Reshape(n, [1]) for n in numbers]
    vector: ir.Value = op.Concat(*parts, axis=0)
    return vector


def _in_tiles(op: OpBuilder, spec: AttentionSpec, rows: _Rows) -> tuple[ir.Value, ir.Value]:
    """Attend tile by tile: which rows were taken, [N*T], the last one more than once; and their results."""
    count, length = dim(op, rows.q_RD, 0), dim(op, rows.keys_LD, 0)
    most = op.Max(op.Div(TILE_SCORES, length), TILE_ROWS)
    tiles = op.Div(op.Add(count, op.Sub(most, 1)), most)
    size = op.Div(op.Add(count, op.Sub(tiles, 1)), tiles)
    taken = op.Min(arange(op, op.Mul(tiles, size)), op.Sub(count, 1))

    def tile(inner: OpBuilder, step: ir.Value, go_on: ir.Value) -> list[ir.Value]:
        start = inner.Mul(size, step)
        row_T = inner.Slice(taken, start, inner.Add(start, size), [0])
        position_T = inner.Gather(rows.position_R, row_T, axis=0)
        scores = inner.MatMul(
            inner.Gather(rows.q_RD, row_T, axis=0), inner.Transpose(rows.keys_LD, perm=[1, 0])
        )
        seen = _masked(inner, scores, position_T, length, size)
        y_TD = inner.MatMul(inner.Softmax(seen, axis=-1), rows.values_LD)
        return [inner.Identity(go_on), y_TD]

    y_NTD = _loop(op, "tile", op.Squeeze(tiles), tile, ("T", spec.v_head_dim))
    y: ir.Value = op.Reshape(y_NTD, [-1, spec.v_head_dim])
    return taken, y


def _masked(
    op: OpBuilder, scores_TL: ir.Value, position_T: ir.Value, length: ir.Value, size: ir.Value
) -> ir.Value:
    """Scores with -inf behind each row's position; the first row is the earliest."""
    first = op.Slice(position_T, [0], [1], [0])
    key = op.Range(op.Squeeze(first), op.Squeeze(length), 1)
    visible = op.LessOrEqual(key, op.Unsqueeze(position_T, [1]))
    tail = op.Where(visible, op.Slice(scores_TL, first, length, [1]), float("-inf"))
    # NOTES: ONNX Runtime writes into the scores where they lie; any other way to join two parts copies both.
    masked: ir.Value = op.TensorScatter(scores_TL, tail, op.Expand(first, size), axis=1)
    return masked


def _loop(op: OpBuilder, name: str, count: ir.Value, turn: Body, shape: Sequence[int | str]) -> ir.Value:
    """Results of a FLOAT `shape`, one above the other, of `count` turns."""
    inputs = [
        ir.Value(name=f"{name}_step", type=ir.TensorType(INT64), shape=ir.Shape([])),
        ir.Value(name=f"{name}_go_on", type=ir.TensorType(BOOL), shape=ir.Shape([])),
    ]
    outputs = [
        ir.Value(name=f"{name}_go_on_out", type=ir.TensorType(BOOL)),
        ir.Value(name=f"{name}_result", type=ir.TensorType(FLOAT), shape=ir.Shape(shape)),
    ]
    results: ir.Value = op.Loop(count, True, body=subgraph(op, name, turn, inputs, outputs))
    return results
