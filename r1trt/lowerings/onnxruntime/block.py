"""The block branch of R1HLAAttention: each query against its own block and the blocks' first tokens only.

Legend: as in attention.py; b block size, N blocks of the keys, n blocks that this call's queries touch.
Queries are laid out in whole blocks, each block's keys are gathered once, and first tokens lie apart (spec
section 2).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.lowerings.builder import arange, constant, dim, dims
from r1trt.ops.hla_attention import AttentionSpec


def _pick_rows(op: OpBuilder, x: ir.Value, rows_BR: ir.Value, heads: int) -> ir.Value:
    """X [B,h,X,w], rows [B,R] -> [B,h,R,w]."""
    index = op.Expand(op.Unsqueeze(rows_BR, [1, 3]), dims(op, 1, heads, 1, 1))
    picked: ir.Value = op.GatherND(x, index, batch_dims=2)
    return picked


def _whole_blocks(op: OpBuilder, spec: AttentionSpec, x: ir.Value) -> ir.Value:
    """Pad the rows of x [B,Hkv,L,w] with zeros to a whole number of blocks."""
    length = dim(op, x, 2)
    missing = op.Mod(op.Sub(spec.block_size, op.Mod(length, spec.block_size)), spec.block_size)
    padded: ir.Value = op.Pad(x, dims(op, 0, missing), None, [2])
    return padded


def _queries_by_block(
    op: OpBuilder, spec: AttentionSpec, q: ir.Value, n: ir.Value, offset_B: ir.Value
) -> ir.Value:
    """Q [B,H,S,d] -> [B,Hkv,n,G*b,d], scaled; row r of a frame is the query at position block start + r."""
    size, heads = spec.block_size, spec.num_kv_heads
    last = op.Sub(dim(op, q, 2), 1)
    rows = op.Sub(arange(op, op.Mul(n, size)), op.Unsqueeze(offset_B, [1]))
    framed = _pick_rows(op, q, op.Max(op.Min(rows, last), 0), spec.num_heads)
    framed = op.Reshape(framed, dims(op, 0, heads, spec.group, n, size, spec.head_dim))
    framed = op.Transpose(op.Mul(framed, spec.scale), perm=[0, 1, 3, 2, 4, 5])
    q_blocks: ir.Value = op.Reshape(framed, dims(op, 0, heads, n, spec.group * size, spec.head_dim))
    return q_blocks


def _first_to_first(
    op: OpBuilder,
    spec: AttentionSpec,
    n: ir.Value,
    diagonal: ir.Value,
    near_values: ir.Value,
    far_scores: ir.Value,
    far_values: ir.Value,
) -> ir.Value:
    """A block's first query sees first tokens only (its own among them); the others their own block only."""
    shape = dims(op, 0, spec.num_kv_heads, n, spec.group, spec.block_size, spec.v_head_dim)
    own = op.Reshape(op.MatMul(op.Softmax(diagonal, axis=-1), near_values), shape)
    head = op.Unsqueeze(op.MatMul(op.Softmax(far_scores, axis=-1), far_values), [4])
    out: ir.Value = op.Concat(head, op.Slice(own, [1], [spec.block_size], [4]), axis=4)
    return out


def _all_to_first(
    op: OpBuilder,
    spec: AttentionSpec,
    n: ir.Value,
    diagonal: ir.Value,
    near_values: ir.Value,
    far_scores: ir.Value,
    far_values: ir.Value,
) -> ir.Value:
    """One softmax over a query's own block and the first tokens of the earlier blocks."""
    probability = op.Softmax(op.Concat(diagonal, far_scores, axis=-1), axis=-1)
    near = op.Slice(probability, [0], [spec.block_size], [4])
    far = op.Slice(probability, [spec.block_size], [np.iinfo(np.int64).max], [4])
    out = op.Add(op.MatMul(near, near_values), op.MatMul(far, far_values))
    shape = dims(op, 0, spec.num_kv_heads, n, spec.group, spec.block_size, spec.v_head_dim)
    result: ir.Value = op.Reshape(out, shape)
    return result


def block_attention(
    op: OpBuilder, spec: AttentionSpec, q: ir.Value, keys: ir.Value, values: ir.Value, past_len: ir.Value
) -> ir.Value:
    """The block branch for q [B,H,S,d] at positions past_len[b] + s; [B,H,S,dv]. Exact for any past_len."""
    size, heads = spec.block_size, spec.num_kv_heads
    keys, values = (_whole_blocks(op, spec, x) for x in (keys, values))
    total = op.Div(dim(op, keys, 2), size)
    n = op.Div(op.Add(dim(op, q, 2), 2 * size - 2), size)  # the most blocks that S rows can touch
    offset_B = op.Mod(past_len, size)
    block_Bn = op.Add(op.Unsqueeze(op.Div(past_len, size), [1]), arange(op, n))
    clipped_Bn = op.Min(block_Bn, op.Sub(total, 1))

    def near(x: ir.Value, width: int) -> ir.Value:
        rows = _pick_rows(op, op.Reshape(x, dims(op, 0, heads, total, size * width)), clipped_Bn, heads)
        blocks: ir.Value = op.Reshape(rows, dims(op, 0, heads, n, size, width))
        return blocks

    def far(x: ir.Value, width: int) -> ir.Value:
        firsts: ir.Value = op.Gather(op.Reshape(x, dims(op, 0, heads, total, size, width)), 0, axis=3)
        return firsts

    q_blocks = _queries_by_block(op, spec, q, n, offset_B)
    triangle = np.tile(np.where(np.tri(size, dtype=bool), 0.0, -np.inf), (spec.group, 1)).astype(np.float32)
    near_keys = op.Transpose(near(keys, spec.head_dim), perm=[0, 1, 2, 4, 3])
    diagonal = op.Add(op.MatMul(q_blocks, near_keys), constant(op, triangle))
    far_keys = op.Unsqueeze(op.Transpose(far(keys, spec.head_dim), perm=[0, 1, 3, 2]), [2])
    far_values = op.Unsqueeze(far(values, spec.v_head_dim), [2])
    first = arange(op, total)
    here = op.Unsqueeze(clipped_Bn, [1, 3, 4])
    near_values = near(values, spec.v_head_dim)
    if spec.inter_block == "first_to_first":
        frame = dims(op, 0, heads, n, spec.group, size, spec.head_dim)
        q_first = op.Gather(op.Reshape(q_blocks, frame), 0, axis=4)
        scores = op.Where(op.LessOrEqual(first, here), op.MatMul(q_first, far_keys), float("-inf"))
        out = _first_to_first(op, spec, n, diagonal, near_values, scores, far_values)
    else:
        scores = op.Where(op.Less(first, here), op.MatMul(q_blocks, far_keys), float("-inf"))
        out = _all_to_first(op, spec, n, diagonal, near_values, scores, far_values)
    out = op.Reshape(
        op.Transpose(out, perm=[0, 1, 3, 2, 4, 5]), dims(op, 0, spec.num_heads, -1, spec.v_head_dim)
    )
    rows = op.Add(arange(op, dim(op, q, 2)), op.Unsqueeze(offset_B, [1]))
    return _pick_rows(op, out, rows, spec.num_heads)
