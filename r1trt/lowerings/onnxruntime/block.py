"""The block branch of R1HLAAttention: each query against its own block and the blocks' first tokens only.

Nothing else of what is held is read, so that the work grows with the number of queries. Queries are laid out
in whole blocks, each block's keys are gathered once, and first tokens lie apart (spec section 2).

Legend: B batch, S tokens of this call, H = Hkv * G query heads, C keys that are held, b block size, N blocks
of the longest sequence, n blocks that this call's queries touch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.lowerings.builder import arange, as_float, constant, dim, dims
from r1trt.ops.hla_attention import AttentionSpec


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """What queries are compared with.

    Attributes:
        diagonal: Masked scores of each query and its own block [B,Hkv,n,b*G,b].
        values: Of the own blocks [B,Hkv,n,b,dv].
        first_keys: Of all blocks, scaled [B,Hkv,1,d,N].
        first_values: [B,Hkv,1,N,dv].
        first: 0, 1, ... N - 1.
        here: Each block's own index among all, [B,1,n,1,1].
    """

    diagonal: ir.Value
    values: ir.Value
    first_keys: ir.Value
    first_values: ir.Value
    first: ir.Value
    here: ir.Value


def _pick_rows(op: OpBuilder, x: ir.Value, rows_BR: ir.Value) -> ir.Value:
    """X [B,X,...], rows [B,R] -> [B,R,...]."""
    picked: ir.Value = op.GatherND(x, op.Unsqueeze(rows_BR, [2]), batch_dims=1)
    return picked


def _pick_held(op: OpBuilder, x: ir.Value, rows_BR: ir.Value, heads: int) -> ir.Value:
    """X [B,h,C,w], rows [B,R] -> [B,h,R,w]."""
    index = op.Expand(op.Unsqueeze(rows_BR, [1, 3]), dims(op, 1, heads, 1, 1))
    picked: ir.Value = op.GatherND(x, index, batch_dims=2)
    return picked


def _first_to_first(op: OpBuilder, spec: AttentionSpec, q_blocks: ir.Value, blocks: _Blocks) -> ir.Value:
    """A block's first query sees first tokens only (its own among them); the others their own block only."""
    own = op.MatMul(op.Softmax(blocks.diagonal, axis=-1), blocks.values)
    q_first = op.Slice(q_blocks, [0], [spec.group], [3])
    visible = op.LessOrEqual(blocks.first, blocks.here)
    scores = op.Where(visible, op.MatMul(q_first, blocks.first_keys), float("-inf"))
    ahead = op.MatMul(op.Softmax(scores, axis=-1), blocks.first_values)
    rows = spec.block_size * spec.group
    # NOTES: ONNX Runtime writes into the result where it lies; Concat would copy all of it.
    out: ir.Value = op.TensorScatter(
        op.Reshape(own, [-1, rows, spec.v_head_dim]),
        op.Reshape(ahead, [-1, spec.group, spec.v_head_dim]),
        axis=1,
    )
    return out


def _all_to_first(op: OpBuilder, spec: AttentionSpec, q_blocks: ir.Value, blocks: _Blocks) -> ir.Value:
    """One softmax over a query's own block and the first tokens of the earlier blocks."""
    visible = op.Less(blocks.first, blocks.here)
    scores = op.Where(visible, op.MatMul(q_blocks, blocks.first_keys), float("-inf"))
    probability = op.Softmax(op.Concat(blocks.diagonal, scores, axis=-1), axis=-1)
    near = op.Slice(probability, [0], [spec.block_size], [4])
    far = op.Slice(probability, [spec.block_size], [np.iinfo(np.int64).max], [4])
    out: ir.Value = op.Add(op.MatMul(near, blocks.values), op.MatMul(far, blocks.first_values))
    return out


def _blocks(
    op: OpBuilder,
    spec: AttentionSpec,
    q_blocks: ir.Value,
    keys: ir.Value,
    values: ir.Value,
    length: ir.Value,
    block_Bn: ir.Value,
) -> _Blocks:
    """Gather the blocks `block_Bn` of the keys, and the first tokens of all; keys carry the scale."""
    size, heads, n = spec.block_size, spec.num_kv_heads, dim(op, block_Bn, 1)
    token = op.Add(op.Unsqueeze(op.Mul(block_Bn, size), [2]), constant(op, np.arange(size)))
    last = op.Sub(dim(op, keys, 2), 1)
    token_BR = op.Min(op.Reshape(token, op.Concat(dim(op, block_Bn, 0), [-1], axis=0)), last)

    def near(x: ir.Value, width: int) -> ir.Value:
        picked = as_float(op, _pick_held(op, x, token_BR, heads), spec.cache)
        blocks: ir.Value = op.Reshape(picked, dims(op, 0, 0, n, size, width))
        return blocks

    def far(x: ir.Value) -> ir.Value:
        return as_float(op, op.Slice(x, [0], length, [2], [size]), spec.cache)

    near_keys = op.Transpose(op.Mul(near(keys, spec.head_dim), spec.scale), perm=[0, 1, 2, 4, 3])
    triangle = np.where(np.tri(size, dtype=bool), 0.0, -np.inf).repeat(spec.group, axis=0).astype(np.float32)
    first_keys = far(keys)
    return _Blocks(
        diagonal=op.Add(op.MatMul(q_blocks, near_keys), constant(op, triangle)),
        values=near(values, spec.v_head_dim),
        first_keys=op.Unsqueeze(op.Transpose(op.Mul(first_keys, spec.scale), perm=[0, 1, 3, 2]), [2]),
        first_values=op.Unsqueeze(far(values), [2]),
        first=arange(op, dim(op, first_keys, 2)),
        here=op.Unsqueeze(block_Bn, [1, 3, 4]),
    )


def block_attention(
    op: OpBuilder,
    spec: AttentionSpec,
    q: ir.Value,
    keys: ir.Value,
    values: ir.Value,
    length: ir.Value,
    past_len: ir.Value,
) -> ir.Value:
    """Attend to blocks and first tokens; exact for any `past_len`.

    Args:
        op: Where nodes go.
        spec: The attention.
        q: Queries [B,S,H,d], at positions past_len[b] + s.
        keys: Keys that are held [B,Hkv,C,d], in the cache's type; what lies behind a sequence is finite.
        values: Values that are held [B,Hkv,C,dv], likewise.
        length: Of the longest sequence after this call, int64 [1].
        past_len: Tokens in front of this call [B].

    Returns:
        [B,S,H,dv].
    """
    size, heads, group = spec.block_size, spec.num_kv_heads, spec.group
    tokens = dim(op, q, 1)
    n = op.Div(op.Add(tokens, 2 * size - 2), size)  # the most blocks that S rows can touch
    offset_B1 = op.Unsqueeze(op.Mod(past_len, size), [1])
    block_Bn = op.Add(op.Unsqueeze(op.Div(past_len, size), [1]), arange(op, n))
    row_BR = op.Sub(arange(op, op.Mul(n, size)), offset_B1)
    framed = _pick_rows(op, q, op.Max(op.Min(row_BR, op.Sub(tokens, 1)), 0))
    framed = op.Reshape(framed, dims(op, 0, n, size, heads, group, spec.head_dim))
    framed = op.Transpose(framed, perm=[0, 3, 1, 2, 4, 5])
    q_blocks = op.Reshape(framed, dims(op, 0, 0, n, size * group, spec.head_dim))
    blocks = _blocks(op, spec, q_blocks, keys, values, length, block_Bn)
    attend = _first_to_first if spec.inter_block == "first_to_first" else _all_to_first
    out = attend(op, spec, q_blocks, blocks)
    shape = op.Concat(dim(op, q, 0), [heads], n, [size, group, spec.v_head_dim], axis=0)
    out = op.Transpose(op.Reshape(out, shape), perm=[0, 2, 3, 1, 4, 5])
    out = op.Reshape(out, dims(op, 0, op.Mul(n, size), spec.num_heads, spec.v_head_dim))
    return _pick_rows(op, out, op.Add(arange(op, tokens), offset_B1))
