"""R1DynamicMoE for TensorRT-RTX: every expert over every token, weighted by what the router kept.

TensorRT-RTX has no data-dependent gather that keeps FP8, so the experts are one batched product and cost
E / k times the arithmetic of a sparse kernel. Legend: T tokens (B * S), E experts, D hidden size, F expert
width.

FP8 scales: `x_scale` and `mid_scale` are per tensor, for routed and shared experts alike; `gate_up_scale` and
`down_scale` hold one entry an expert of their part, and part 0's the shared expert's behind them where there
is one.
Weights are dequantized by 1 and the products' results are multiplied by the scale: one scale an expert inside
the dequantization makes the builder leave FP8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.errors import ExportError
from r1trt.graph.functions import Body, to_float
from r1trt.lowerings.builder import FLOAT, arange, constant, dim
from r1trt.lowerings.router import inputs_by_name, route
from r1trt.ops.moe_spec import MoeSpec, moe_inputs

FP8 = ir.DataType.FLOAT8E4M3FN


@dataclass(frozen=True, kw_only=True)
class _Scales:
    """Static FP32 scales of activations, scalars."""

    x: ir.Value
    mid: ir.Value


class _Products:
    """The experts' two products: FP8 operands with a scaled result, or the activation type throughout."""

    def __init__(self, op: OpBuilder, activation: ir.DataType, scales: _Scales | None) -> None:
        self._op = op
        self._activation = activation
        self._scales = scales

    def input(self, x: ir.Value) -> ir.Value:
        """The experts' input as they see it; made once for routed and shared experts."""
        return x if self._scales is None else self._quantized(x, self._scales.x)

    def gate_up(self, x: ir.Value, w: ir.Value, perm: list[int], scale: ir.Value | None) -> ir.Value:
        """silu(gate) * up in the activation type, quantized for the second product."""
        op = self._op
        product = self._scaled(op.MatMul(x, self._weight(w, perm)), scale)
        gate, up = op.Split(product, num_outputs=2, axis=-1, _outputs=2)
        mid = op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)
        result: ir.Value = mid if self._scales is None else self._quantized(mid, self._scales.mid)
        return result

    def down(self, mid: ir.Value, w: ir.Value, perm: list[int]) -> ir.Value:
        """The second product in FP32; its weight's scale is left to the caller."""
        return to_float(self._op, self._op.MatMul(mid, self._weight(w, perm)))

    def _quantized(self, x: ir.Value, scale: ir.Value) -> ir.Value:
        codes = self._op.QuantizeLinear(x, scale, output_dtype=FP8, precision=FLOAT)
        y: ir.Value = self._op.DequantizeLinear(codes, scale, output_dtype=self._activation)
        return y

    def _weight(self, w: ir.Value, perm: list[int]) -> ir.Value:
        op = self._op
        if self._scales is not None:
            w = op.DequantizeLinear(w, constant(op, np.array(1.0, np.float32)), output_dtype=self._activation)
        y: ir.Value = op.Transpose(w, perm=perm)
        return y

    def _scaled(self, product: ir.Value, scale: ir.Value | None) -> ir.Value:
        """Product * scale, in FP32 so that the scale keeps its bits."""
        if scale is None:
            return product
        y: ir.Value = self._op.Cast(self._op.Mul(to_float(self._op, product), scale), to=self._activation)
        return y


def _combine_weights(op: OpBuilder, spec: MoeSpec, expert_TK: ir.Value, weight_TK: ir.Value) -> ir.Value:
    """Weights by expert: FLOAT [T,E], 0 where a token is not routed."""
    experts = op.Constant(value_ints=[spec.num_experts])
    zeros = op.Expand(0.0, op.Concat(dim(op, expert_TK, 0), experts, axis=0))
    weight_TE: ir.Value = op.ScatterElements(zeros, expert_TK, weight_TK, axis=1)
    return weight_TE


def _entries(op: OpBuilder, scale: ir.Value, start: int, end: int) -> ir.Value:
    entries: ir.Value = op.Slice(scale, [start], [end], [0])
    return entries


def _experts_scales(op: OpBuilder, spec: MoeSpec, given: Mapping[str, ir.Value], name: str) -> ir.Value:
    """One scale an expert, [E]: those of all parts, without the shared expert's."""
    first, *others = spec.parts
    routed = _entries(op, given[name], 0, first.count)
    if not others:
        return routed
    joined: ir.Value = op.Concat(routed, *(given[part.input(name)] for part in others), axis=0)
    return joined


def _routed(
    op: OpBuilder,
    spec: MoeSpec,
    products: _Products,
    x_TD: ir.Value,
    weight_TE: ir.Value,
    given: Mapping[str, ir.Value],
) -> ir.Value:
    """The kept experts' weighted sum, FLOAT [T,D]; one sum over the experts of all parts."""
    x_1TD, made = op.Unsqueeze(x_TD, [0]), []
    for part in spec.parts:
        scale = None
        if spec.fp8:
            scale = op.Unsqueeze(_entries(op, given[part.input("gate_up_scale")], 0, part.count), [1, 2])
        mid_ETF = products.gate_up(x_1TD, given[part.input("w_gate_up")], [0, 2, 1], scale)
        made.append(products.down(mid_ETF, given[part.input("w_down")], [0, 2, 1]))
    y_ETD = made[0] if len(made) == 1 else op.Concat(*made, axis=0)
    if spec.fp8:
        weight_TE = op.Mul(weight_TE, _experts_scales(op, spec, given, "down_scale"))
    weight_ET1 = op.Unsqueeze(op.Transpose(weight_TE, perm=[1, 0]), [2])
    # Not `Mul` alone: an expert that overflows on a token it was not given would turn 0 * inf into NaN.
    weighted = op.Where(op.Equal(weight_ET1, 0.0), 0.0, op.Mul(y_ETD, weight_ET1))
    y_TD: ir.Value = op.ReduceSum(weighted, [0], keepdims=0)
    return y_TD


def _shared(
    op: OpBuilder,
    spec: MoeSpec,
    products: _Products,
    x_TD: ir.Value,
    given: Mapping[str, ir.Value],
) -> ir.Value:
    """The shared expert, FLOAT [T,D]; its scales stand behind those of the experts of part 0."""
    last = (spec.parts[0].count, spec.parts[0].count + 1)
    gate_up_scale = _entries(op, given["gate_up_scale"], *last) if spec.fp8 else None
    mid = products.gate_up(x_TD, given["shared_gate_up"], [1, 0], gate_up_scale)
    y_TD = products.down(mid, given["shared_down"], [1, 0])
    if spec.fp8:
        y_TD = op.Mul(y_TD, _entries(op, given["down_scale"], *last))
    return y_TD


def _check(spec: MoeSpec) -> None:
    candidates = spec.num_experts // spec.n_group * spec.topk_group if spec.uses_groups else spec.num_experts
    if spec.top_k > candidates:
        raise ExportError(
            "The router cannot take more experts than its open groups hold.",
            found=f"top_k {spec.top_k}, {candidates} experts in {spec.topk_group} open groups",
            expected="top_k <= topk_group * num_experts / n_group",
        )


def moe_body(spec: MoeSpec) -> Body:
    """Route x [B,S,D] and add up the kept experts and the shared one; padding gives 0 (spec section 1).

    Args:
        spec: Shapes, attributes and types; `fp8` says whether the weights are FP8 with scales.

    Raises:
        ExportError: The open groups hold fewer than `top_k` experts.
    """
    _check(spec)

    def body(op: OpBuilder, *values: ir.Value) -> ir.Value:
        given = inputs_by_name(moe_inputs(spec), values)
        x = given["x"]
        scales = _Scales(x=given["x_scale"], mid=given["mid_scale"]) if spec.fp8 else None
        real_BS = op.Less(op.Unsqueeze(arange(op, dim(op, x, 1)), [0]), op.Unsqueeze(given["seq_len"], [1]))
        real_T = op.Reshape(real_BS, [-1])
        x_TD = op.Reshape(x, [-1, spec.hidden_size])
        router = (given["w_router"], given["router_bias"])
        expert_TK, weight_TK, _ = route(op, spec, to_float(op, x_TD), *router, real_T)
        weight_TE = _combine_weights(op, spec, expert_TK, weight_TK)
        products = _Products(op, spec.activation, scales)
        seen_TD = products.input(x_TD)
        y_TD = _routed(op, spec, products, seen_TD, weight_TE, given)
        if spec.shared_width:
            y_TD = op.Add(y_TD, _shared(op, spec, products, seen_TD, given))
        y_TD = op.Where(op.Unsqueeze(real_T, [1]), y_TD, 0.0)
        y: ir.Value = op.Reshape(op.Cast(y_TD, to=spec.activation), op.Shape(x))
        return y

    return body
