"""What every layer of an exported graph has at hand, and the nodes that many kinds of layer are made of.

Legend: B batch, S tokens of this call, C cache capacity, r rotary size. Node names are the keys of precision
plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from r1trt.config import ModelConfig
from r1trt.export.graph import GraphEmitter
from r1trt.ops.cost import Dims
from r1trt.ops.linear import LINEAR, LINEAR_BIAS
from r1trt.ops.residual_add import RESIDUAL_ADD
from r1trt.ops.rms_norm import RMS_NORM
from r1trt.rope import rope_frequencies

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64


@dataclass(frozen=True, kw_only=True)
class Forward:
    """A forward pass that is being emitted.

    Attributes:
        emit: Takes the nodes.
        model: The model's configuration.
        capacity: C, in tokens.
        seq_len: [B], the call's real tokens.
        past_len: [B], tokens in the cache.
        inv_freq: [r/2], inverse frequencies of RoPE.
        attention_factor: Factor of RoPE's cosines and sines.
    """

    emit: GraphEmitter
    model: ModelConfig
    capacity: int
    seq_len: ir.Value
    past_len: ir.Value
    inv_freq: ir.Value
    attention_factor: float


@dataclass(frozen=True, kw_only=True)
class Attended:
    """What attention gives: `y` [B,S,D], and the caches after this call by the names of their outputs."""

    y: ir.Value
    caches: Mapping[str, ir.Value]


def forward_from_config(emit: GraphEmitter, model: ModelConfig, capacity: int) -> Forward:
    """Emit the inputs that every layer reads, and RoPE's frequencies for sequences of `capacity` tokens."""
    inv_freq, attention_factor = rope_frequencies(
        model.rope, capacity, max_position_embeddings=model.max_position_embeddings
    )
    return Forward(
        emit=emit,
        model=model,
        capacity=capacity,
        seq_len=emit.input("seq_len", INT64, ("B",)),
        past_len=emit.input("past_len", INT64, ("B",)),
        inv_freq=emit.constant("rope.inv_freq", np.asarray(inv_freq, np.float32)),
        attention_factor=attention_factor,
    )


def linear(emit: GraphEmitter, name: str, x: ir.Value, *, bias: bool = False, weight: str = "") -> ir.Value:
    """Emit `x W^T`, with a bias where there is one; `weight` names another layer's W."""
    matrix = emit.weight(weight or f"{name}.weight")
    shape = (*sizes(x)[:-1], sizes(matrix)[0])
    inputs, outputs = {"x": x, "w": matrix}, [(FLOAT, shape)]
    if bias:
        inputs["b"] = emit.weight(f"{name}.bias")
        return emit.operator(LINEAR_BIAS, name, inputs, outputs)[0]
    return emit.operator(LINEAR, name, inputs, outputs)[0]


def rms_norm(forward: Forward, name: str, x: ir.Value, *, epsilon: float | None = None) -> ir.Value:
    """Emit an RMSNorm over the last axis of `x`; its epsilon is the model's if none is given."""
    inputs = {"x": x, "w": forward.emit.weight(f"{name}.weight")}
    attributes = {"epsilon": forward.model.rms_norm_eps if epsilon is None else epsilon}
    return forward.emit.operator(RMS_NORM, name, inputs, [(FLOAT, sizes(x))], attributes)[0]


def residual(emit: GraphEmitter, name: str, x: ir.Value, y: ir.Value) -> ir.Value:
    """Emit the sum of the residual stream `x` and a layer's result `y`."""
    return emit.operator(RESIDUAL_ADD, name, {"x": x, "y": y}, [(FLOAT, sizes(x))])[0]


def reshape(emit: GraphEmitter, name: str, x: ir.Value, to: list[int], shape: Dims) -> ir.Value:
    """Emit a Reshape to `to`, as ONNX spells it (0 keeps an axis), whose result has the sizes `shape`."""
    assert x.dtype is not None
    target = emit.constant("shape." + "_".join(map(str, to)), np.array(to, np.int64))
    return emit.node("Reshape", name, [x, target], [(x.dtype, shape)])[0]


def cut(emit: GraphEmitter, name: str, x: ir.Value, start: int, stop: int, *, axis: int = -1) -> ir.Value:
    """Emit a Slice of `x` along one axis."""
    assert x.dtype is not None
    bounds = [
        emit.constant(f"int64.{number}.list", np.array([number], np.int64)) for number in (start, stop, axis)
    ]
    shape = list(sizes(x))
    shape[axis] = stop - start
    return emit.node("Slice", name, [x, *bounds], [(x.dtype, tuple(shape))])[0]


def sizes(value: ir.Value) -> Dims:
    """Sizes of a value's axes: numbers, and names of dynamic axes."""
    return tuple(size if isinstance(size, int) else str(size) for size in value.shape or ())
