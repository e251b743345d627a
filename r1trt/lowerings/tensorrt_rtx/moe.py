"""R1DynamicMoE for TensorRT-RTX: every expert over every token, weighted by what the router kept.

TensorRT-RTX has no data-dependent gather that keeps FP8, so the experts are one batched product and cost
E / k times the arithmetic of a sparse kernel. Legend: T tokens (B * S), E experts, D hidden size, F expert
width.

FP8 scales: `x_scale` and `mid_scale` are per tensor, for routed and shared experts alike; `gate_up_scale` and
`down_scale` hold one entry an expert, [E], and the shared expert's behind them, [E + 1], where there is one.
Weights are dequantized by 1 and the products' results are multiplied by the scale: one scale an expert inside
the dequantization makes the builder leave FP8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.errors import ExportError
from r1trt.graph.functions import Body, to_float
from r1trt.lowerings.builder import FLOAT, arange, constant, dim
from r1trt.lowerings.router import route
from r1trt.ops.dynamic_moe import MoeSpec

FP8 = ir.DataType.FLOAT8E4M3FN


@dataclass(frozen=True, kw_only=True)
class _Scales:
    """FP32 scales; x and mid scalar, gate_up and down an entry an expert."""

    x: ir.Value
    mid: ir.Value
    gate_up: ir.Value
    down: ir.Value


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


def _routed(
    op: OpBuilder,
    spec: MoeSpec,
    products: _Products,
    scales: _Scales | None,
    x_TD: ir.Value,
    weight_TE: ir.Value,
    weights: tuple[ir.Value, ir.Value],
) -> ir.Value:
    """The kept experts' weighted sum, FLOAT [T,D]."""
    gate_up_scale = None
    if scales is not None:
        gate_up_scale = op.Unsqueeze(_entries(op, scales.gate_up, 0, spec.num_experts), [1, 2])
        weight_TE = op.Mul(weight_TE, _entries(op, scales.down, 0, spec.num_experts))
    mid_ETF = products.gate_up(op.Unsqueeze(x_TD, [0]), weights[0], [0, 2, 1], gate_up_scale)
    y_ETD = products.down(mid_ETF, weights[1], [0, 2, 1])
    weight_ET1 = op.Unsqueeze(op.Transpose(weight_TE, perm=[1, 0]), [2])
    # Not `Mul` alone: an expert that overflows on a token it was not given would turn 0 * inf into NaN.
    weighted = op.Where(op.Equal(weight_ET1, 0.0), 0.0, op.Mul(y_ETD, weight_ET1))
    y_TD: ir.Value = op.ReduceSum(weighted, [0], keepdims=0)
    return y_TD


def _shared(
    op: OpBuilder,
    spec: MoeSpec,
    products: _Products,
    scales: _Scales | None,
    x_TD: ir.Value,
    weights: tuple[ir.Value, ir.Value],
) -> ir.Value:
    """The shared expert, FLOAT [T,D]."""
    last = (spec.num_experts, spec.num_experts + 1)
    gate_up_scale = None if scales is None else _entries(op, scales.gate_up, *last)
    y_TD = products.down(products.gate_up(x_TD, weights[0], [1, 0], gate_up_scale), weights[1], [1, 0])
    if scales is not None:
        y_TD = op.Mul(y_TD, _entries(op, scales.down, *last))
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

    def body(
        op: OpBuilder,
        x: ir.Value,
        seq_len: ir.Value,
        w_router: ir.Value,
        router_bias: ir.Value,
        w_gate_up: ir.Value,
        w_down: ir.Value,
        shared_gate_up: ir.Value,
        shared_down: ir.Value,
        x_scale: ir.Value,
        gate_up_scale: ir.Value,
        mid_scale: ir.Value,
        down_scale: ir.Value,
    ) -> ir.Value:
        scales = None
        if spec.fp8:
            scales = _Scales(x=x_scale, mid=mid_scale, gate_up=gate_up_scale, down=down_scale)
        real_BS = op.Less(op.Unsqueeze(arange(op, dim(op, x, 1)), [0]), op.Unsqueeze(seq_len, [1]))
        real_T = op.Reshape(real_BS, [-1])
        x_TD = op.Reshape(x, [-1, spec.hidden_size])
        expert_TK, weight_TK, _ = route(op, spec, to_float(op, x_TD), w_router, router_bias, real_T)
        weight_TE = _combine_weights(op, spec, expert_TK, weight_TK)
        products = _Products(op, spec.activation, scales)
        seen_TD = products.input(x_TD)
        y_TD = _routed(op, spec, products, scales, seen_TD, weight_TE, (w_gate_up, w_down))
        if spec.shared_width:
            shared = _shared(op, spec, products, scales, seen_TD, (shared_gate_up, shared_down))
            y_TD = op.Add(y_TD, shared)
        y_TD = op.Where(op.Unsqueeze(real_T, [1]), y_TD, 0.0)
        y: ir.Value = op.Reshape(op.Cast(y_TD, to=spec.activation), op.Shape(x))
        return y

    return body
