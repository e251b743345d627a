"""Rotation, cache and attention as one node of ONNX Runtime's: GroupQueryAttention.

Legend: B batch, S tokens of this call, C cache capacity, H query heads, Hkv key/value heads, d head size, r
rotary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.graph.edit import FLOAT, Emitter, dims_of, register, replace_value
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE, RopeSpec
from r1trt.ops.hla_attention import HLA_ATTENTION, AttentionSpec
from r1trt.ops.registry import operator_of

# What the kernel requires of d and of r.
_SIZES = 16
_INT32 = ir.DataType.INT32
_INT64 = ir.DataType.INT64


class FuseAttentionPass(ir.passes.InPlacePass):
    """R1DynamicRoPE and R1HLAAttention become one GroupQueryAttention where that computes the same.

    It needs FP32, a cache, rotary and head sizes in steps of 16, no temperature, no lambda gate and no latent
    keys. Every row of a call counts as S tokens: garbage behind a sequence's real ones is computed, written
    and hidden by causality as R1HLAAttention does it.

    The operator has one type for all that it reads and writes: beside a cache in FP16 queries, keys, values,
    the tables of the rotation and the result are rounded to it. Its arithmetic between them is FP32 on x86.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lengths and tables are made once and shared by all nodes."""
        lengths: _Lengths | None = None
        for node in list(model.graph):
            fusable = _fusable(node)
            if fusable is None:
                continue
            queries = _queries_keys_values(fusable)
            lengths = lengths or _lengths(fusable, queries[0])
            _fuse(fusable, queries, lengths)
        if lengths is not None:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, lengths is not None)


@dataclass(frozen=True, kw_only=True)
class _Fusable:
    """An attention over a cache, and the rotation in front of it."""

    attention: ir.Node
    rope: ir.Node
    spec: AttentionSpec
    rotation: RopeSpec

    @property
    def past_len(self) -> ir.Value:
        return HLA_ATTENTION.required(self.attention, "past_len")


@dataclass(frozen=True, kw_only=True)
class _Lengths:
    """What all nodes of a graph read; INT32.

    Attributes:
        past_len: What they were made of.
        last: Each row's last position, [B].
        longest: Length of the longest row, a scalar.
        new: S for each row, [B].
    """

    past_len: ir.Value
    last: ir.Value
    longest: ir.Value
    new: ir.Value


def _fusable(node: ir.Node) -> _Fusable | None:
    if operator_of(node) is not HLA_ATTENTION:
        return None
    spec = HLA_ATTENTION.spec_from_node(node)
    rope = HLA_ATTENTION.required(node, "q").producer()
    if rope is None or operator_of(rope) is not DYNAMIC_ROPE or not _computes(spec):
        return None
    rotation = DYNAMIC_ROPE.spec_from_node(rope)
    ends = [HLA_ATTENTION.required(node, name) for name in ("q", "k")]
    alone = all(len(value.uses()) == 1 for value in ends) and ends == list(rope.outputs)
    lengths = [
        operator.input(at, "past_len") for operator, at in ((HLA_ATTENTION, node), (DYNAMIC_ROPE, rope))
    ]
    if not alone or lengths[0] is not lengths[1] or not _rotates(rope, rotation):
        return None
    return _Fusable(attention=node, rope=rope, spec=spec, rotation=rotation)


def _computes(spec: AttentionSpec) -> bool:
    """Whether the operator computes such an attention."""
    plain = not spec.has_lam and not spec.latent and spec.capacity is not None
    return plain and spec.activation == FLOAT and spec.head_dim == spec.v_head_dim


def _rotates(rope: ir.Node, spec: RopeSpec) -> bool:
    """Whether the operator has such a rotation."""
    in_steps = spec.head_dim % _SIZES == spec.rotary_dim % _SIZES == 0
    constant = DYNAMIC_ROPE.required(rope, "inv_freq").const_value is not None
    return in_steps and constant and not spec.has_temperature and spec.activation == FLOAT


def _lengths(first: _Fusable, q: ir.Value | None) -> _Lengths:
    """In front of the first node, whose query tells S."""
    emit, past_len = Emitter(first.attention, "attention.lengths"), first.past_len
    batch = dims_of(past_len)
    size = emit.node("Shape", "Tokens", [q], _INT64, (1,), {"start": 1, "end": 2})
    total = emit.node("Add", "Lengths", [past_len, size], _INT64, batch)
    one = emit.constant("one", np.asarray([1], np.int64))
    last = emit.node("Sub", "Last", [total, one], _INT64, batch)
    longest = emit.node("ReduceMax", "Longest", [total], _INT64, (), {"keepdims": 0})
    new = emit.node("Sub", "New", [total, past_len], _INT64, batch)
    return _Lengths(
        past_len=past_len,
        last=emit.cast(last, _INT32, "CastLast"),
        longest=emit.cast(longest, _INT32, "CastLongest"),
        new=emit.cast(new, _INT32, "CastNew"),
    )


def _fuse(found: _Fusable, queries: Sequence[ir.Value | None], lengths: _Lengths) -> None:
    node, spec = found.attention, found.spec
    assert found.past_len is lengths.past_len, "a graph has one past_len"
    caches = [value for _, value, _ in HLA_ATTENTION.cache_values(node)]
    tables = _tables(node, found)
    emit, name = Emitter(node, str(node.name)), "GroupQueryAttention"
    rounded = [
        value and emit.cast(value, spec.cache, f"Cast{at}") for at, value in zip("QKV", queries, strict=True)
    ]
    # Between sin and the new tokens lie seven optional inputs.
    inputs = [*rounded, *caches, lengths.last, lengths.longest, *tables, *[None] * 7, lengths.new]
    attributes = {
        "num_heads": spec.num_heads,
        "kv_num_heads": spec.num_kv_heads,
        "scale": spec.scale,
        "do_rotary": 1,
        "rotary_interleaved": int(found.rotation.interleaved),
    }
    width = spec.num_heads * spec.head_dim
    outputs = [(*dims_of(node.outputs[0])[:2], width), *(dims_of(value) for value in node.outputs[1:])]
    y, *updated = emit.contrib_node(name, name, inputs, outputs, attributes, spec.cache)
    _replace_heads(node, emit.cast(y, FLOAT, "CastY"), width)
    for old, new in zip(node.outputs[1:], updated, strict=True):
        replace_value(old, new)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _queries_keys_values(found: _Fusable) -> list[ir.Value | None]:
    """q, k and v with their heads side by side; or what one product made of all three, and nothing else."""
    node, spec = found.attention, found.spec
    values = [
        DYNAMIC_ROPE.required(found.rope, "q"),
        DYNAMIC_ROPE.required(found.rope, "k"),
        HLA_ATTENTION.required(node, "v"),
    ]
    heads = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
    emit = Emitter(node, str(node.name))
    flat = [
        _flat(emit, value, count * spec.head_dim, name)
        for value, count, name in zip(values, heads, "QKV", strict=True)
    ]
    split = flat[0].producer()
    if split is not None and split.op_type == "Split" and split.domain == "" and list(split.outputs) == flat:
        return [split.inputs[0], None, None]
    return list(flat)


def _flat(emit: Emitter, value: ir.Value, width: int, name: str) -> ir.Value:
    """[B,S,heads,d] as [B,S,heads*d]; what it was reshaped from where that is it."""
    reshape = value.producer()
    source = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
    if (
        source is not None
        and source.shape is not None
        and len(source.shape) == 3
        and source.shape[2] == width
    ):
        return source
    shape = emit.constant(f"side_by_side.{width}", np.asarray([0, 0, width], np.int64))
    return emit.node("Reshape", f"{name}SideBySide", [value, shape], FLOAT, (*dims_of(value)[:2], width))


def _replace_heads(node: ir.Node, y: ir.Value, width: int) -> None:
    """Let y [B,S,H*d] stand for what was made of the result's heads."""
    heads = node.outputs[0]
    for user, _ in list(heads.uses()):
        merged = user.outputs[0].shape
        if user.op_type == "Reshape" and merged is not None and len(merged) == 3 and merged[2] == width:
            replace_value(user.outputs[0], y)
            assert user.graph is not None
            user.graph.remove(user, safe=True)
    if heads.uses() or heads.is_graph_output():
        emit = Emitter(node, str(node.name))
        shape = emit.constant("heads", np.asarray([0, 0, *dims_of(heads)[2:]], np.int64))
        replace_value(heads, emit.node("Reshape", "Heads", [y, shape], FLOAT, dims_of(heads)))


def _tables(node: ir.Node, found: _Fusable) -> list[ir.Value]:
    """Cos and sin [C,r/2] of all positions, times the attention factor, in the cache's type."""
    inv_freq = DYNAMIC_ROPE.required(found.rope, "inv_freq")
    assert inv_freq.const_value is not None and node.graph is not None and found.spec.capacity is not None
    factor = found.rotation.attention_factor
    position = np.arange(found.spec.capacity, dtype=np.float32)[:, None]
    angle = (position * inv_freq.const_value.numpy()).astype(np.float64)
    held = found.spec.cache
    suffix = ("" if factor == 1.0 else f".{factor!r}") + ("" if held == FLOAT else f".{held.name.lower()}")
    tables = {"cos": np.cos(angle), "sin": np.sin(angle)}
    assert isinstance(node.graph, ir.Graph)
    return [
        register(
            node.graph,
            ir.tensor(
                (table.astype(np.float32) * np.float32(factor)).astype(held.numpy()),
                name=f"{inv_freq.name}.{name}{suffix}",
            ),
        )
        for name, table in tables.items()
    ]
