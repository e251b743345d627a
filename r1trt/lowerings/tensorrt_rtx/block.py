"""The block branch of R1HLAAttention for TensorRT-RTX, exact for any number of cached tokens.

Legend: as in attention.py; b block size, N blocks of the keys, n blocks that this call's queries can touch,
G = H / Hkv. Queries are laid out in frames of whole blocks, each block's keys are gathered once, and first
tokens lie apart: a mask over the original keys would save nothing, since every tile of 32 keys holds a first
token. Two `Attention` nodes that share a query or a key crash the builder, so this branch is MatMul, Softmax,
MatMul.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import to_float
from r1trt.lowerings.builder import arange, constant, dim, dims
from r1trt.ops.hla_attention import AttentionSpec

END = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Where this call's queries stand: `n` blocks from `block_Bn` on, the first query at row `offset_B`.

    Attributes:
        n: Blocks that S rows can touch at most, int64 [1].
        total: Blocks of the keys, a number where the capacity is static, else int64 [1].
        offset_B: Row of the first query in its block.
        block_Bn: Index of each block among the keys, clipped to the last one: blocks behind it hold no query.
    """

    n: ir.Value
    total: ir.Value | int
    offset_B: ir.Value
    block_Bn: ir.Value


def _frame(op: OpBuilder, spec: AttentionSpec, q: ir.Value, past_len: ir.Value) -> _Frame:
    size = spec.block_size
    n = op.Div(op.Add(dim(op, q, 2), 2 * size - 2), size)
    first_B1 = op.Unsqueeze(op.Div(past_len, size), [1])
    if spec.capacity is not None:
        total: ir.Value | int = spec.capacity // size
        last: ir.Value | int = spec.capacity // size - 1
    else:
        total = op.Div(op.Add(dim(op, q, 2), size - 1), size)
        last = op.Sub(total, 1)
    block_Bn = op.Min(op.Add(first_B1, arange(op, n)), last)
    return _Frame(n=n, total=total, offset_B=op.Mod(past_len, size), block_Bn=block_Bn)


def _pick_rows(op: OpBuilder, x: ir.Value, rows_BR: ir.Value, heads: int) -> ir.Value:
    """X [B,h,X,w], rows [B,R] -> [B,h,R,w]."""
    index = op.Expand(op.Unsqueeze(rows_BR, [1, 3]), dims(op, 1, heads, 1, 1))
    picked: ir.Value = op.GatherND(x, index, batch_dims=2)
    return picked


def _whole_blocks(op: OpBuilder, spec: AttentionSpec, frame: _Frame, x: ir.Value) -> ir.Value:
    """Without a cache, repeat x's last row [B,Hkv,S,d] up to whole blocks; causality hides the copies."""
    if spec.capacity is not None:
        return x
    row = op.Min(arange(op, op.Mul(frame.total, spec.block_size)), op.Sub(dim(op, x, 2), 1))
    padded: ir.Value = op.Gather(x, row, axis=2)
    return padded


def _queries_by_block(op: OpBuilder, spec: AttentionSpec, frame: _Frame, q: ir.Value) -> ir.Value:
    """Q [B,H,S,d] -> [B,Hkv,n,G*b,d]; row r of a block's frame is the query at position block start + r."""
    size, heads = spec.block_size, spec.num_kv_heads
    rows = op.Sub(arange(op, op.Mul(frame.n, size)), op.Unsqueeze(frame.offset_B, [1]))
    rows = op.Max(op.Min(rows, op.Sub(dim(op, q, 2), 1)), 0)
    framed = _pick_rows(op, q, rows, spec.num_heads)
    framed = op.Reshape(framed, dims(op, 0, heads, spec.group, frame.n, size, spec.head_dim))
    framed = op.Transpose(framed, perm=[0, 1, 3, 2, 4, 5])
    q_blocks: ir.Value = op.Reshape(framed, dims(op, 0, heads, frame.n, spec.group * size, spec.head_dim))
    return q_blocks


def _near(op: OpBuilder, spec: AttentionSpec, frame: _Frame, x: ir.Value) -> ir.Value:
    """Each touched block of x [B,Hkv,N*b,d], as [B,Hkv,n,b,d]."""
    heads, size, width = spec.num_kv_heads, spec.block_size, spec.head_dim
    by_block = op.Reshape(x, dims(op, 0, heads, frame.total, size * width))
    picked = _pick_rows(op, by_block, frame.block_Bn, heads)
    blocks: ir.Value = op.Reshape(picked, dims(op, 0, heads, frame.n, size, width))
    return blocks


def _far(op: OpBuilder, spec: AttentionSpec, frame: _Frame, x: ir.Value) -> ir.Value:
    """The first token of every block of x [B,Hkv,N*b,d], as [B,Hkv,1,N,d]."""
    by_block = op.Reshape(x, dims(op, 0, spec.num_kv_heads, frame.total, spec.block_size, spec.head_dim))
    firsts: ir.Value = op.Unsqueeze(op.Gather(by_block, 0, axis=3), [2])
    return firsts


def _scores(op: OpBuilder, spec: AttentionSpec, q: ir.Value, keys: ir.Value) -> ir.Value:
    """Scaled scores in FP32: a BF16 scale such as 128 ** -0.5 would shift every score by up to 0.4 %."""
    product = to_float(op, op.MatMul(q, op.Transpose(keys, perm=[0, 1, 2, 4, 3])))
    scaled: ir.Value = op.Mul(product, spec.scale)
    return scaled


def _probability(op: OpBuilder, scores: ir.Value, like: ir.Value) -> ir.Value:
    probability: ir.Value = op.CastLike(op.Softmax(scores, axis=-1), like)
    return probability


def _first_tokens(op: OpBuilder, frame: _Frame) -> ir.Value:
    return constant(op, np.arange(frame.total)) if isinstance(frame.total, int) else arange(op, frame.total)


def _first_to_first(
    op: OpBuilder,
    spec: AttentionSpec,
    frame: _Frame,
    q: ir.Value,
    keys: ir.Value,
    values: ir.Value,
    own: ir.Value,
) -> ir.Value:
    """A block's first query sees first tokens only (its own among them); the others their own block only."""
    by_row = dims(op, 0, spec.num_kv_heads, frame.n, spec.group, spec.block_size, spec.head_dim)
    q_first = op.Gather(op.Reshape(q, by_row), 0, axis=4)
    seen = op.LessOrEqual(_first_tokens(op, frame), op.Unsqueeze(frame.block_Bn, [1, 3, 4]))
    scores = op.Where(seen, _scores(op, spec, q_first, _far(op, spec, frame, keys)), float("-inf"))
    head = op.MatMul(_probability(op, scores, q), _far(op, spec, frame, values))
    rest = op.Reshape(op.MatMul(_probability(op, own, q), _near(op, spec, frame, values)), by_row)
    out: ir.Value = op.Concat(op.Unsqueeze(head, [4]), op.Slice(rest, [1], [spec.block_size], [4]), axis=4)
    return out


def _all_to_first(
    op: OpBuilder,
    spec: AttentionSpec,
    frame: _Frame,
    q: ir.Value,
    keys: ir.Value,
    values: ir.Value,
    own: ir.Value,
) -> ir.Value:
    """One softmax over a query's own block and the first tokens of the earlier blocks."""
    seen = op.Less(_first_tokens(op, frame), op.Unsqueeze(frame.block_Bn, [1, 3, 4]))
    scores = op.Where(seen, _scores(op, spec, q, _far(op, spec, frame, keys)), float("-inf"))
    probability = _probability(op, op.Concat(own, scores, axis=-1), q)
    near = op.MatMul(op.Slice(probability, [0], [spec.block_size], [4]), _near(op, spec, frame, values))
    far = op.MatMul(op.Slice(probability, [spec.block_size], [END], [4]), _far(op, spec, frame, values))
    by_row = dims(op, 0, spec.num_kv_heads, frame.n, spec.group, spec.block_size, spec.head_dim)
    out: ir.Value = op.Reshape(op.Add(near, far), by_row)
    return out


def block_attention(
    op: OpBuilder, spec: AttentionSpec, q: ir.Value, keys: ir.Value, values: ir.Value, past_len: ir.Value
) -> ir.Value:
    """The block branch for q [B,H,S,d] at positions past_len[b] + s over keys [B,Hkv,L,d]; [B,H,S,d]."""
    frame = _frame(op, spec, q, past_len)
    keys, values = (_whole_blocks(op, spec, frame, x) for x in (keys, values))
    q_blocks = _queries_by_block(op, spec, frame, q)
    hidden = np.where(np.tri(spec.block_size, dtype=bool), 0.0, -np.inf).astype(np.float32)
    own = _scores(op, spec, q_blocks, _near(op, spec, frame, keys))
    own = op.Add(own, constant(op, np.tile(hidden, (spec.group, 1))))
    branch = _first_to_first if spec.inter_block == "first_to_first" else _all_to_first
    out = branch(op, spec, frame, q_blocks, keys, values, own)
    out = op.Transpose(out, perm=[0, 1, 3, 2, 4, 5])
    out = op.Reshape(out, dims(op, 0, spec.num_heads, -1, spec.head_dim))
    rows = op.Add(arange(op, dim(op, q, 2)), op.Unsqueeze(frame.offset_B, [1]))
    return _pick_rows(op, out, rows, spec.num_heads)
