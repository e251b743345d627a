"""What calibration measures of a value, as model-local functions: a few values, whatever the batch.

A statistic reduces inside the graph, so calibration holds no activations. Legend: N values of a statistic;
T tokens, E experts, D hidden size, F expert width as in R1DynamicMoE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import function_from_body, to_float
from r1trt.lowerings.builder import BOOL, FLOAT, INT64, arange, dim, subgraph
from r1trt.lowerings.onnxruntime.expert_weights import expert_gate_up
from r1trt.lowerings.router import route
from r1trt.ops.dynamic_moe import MoeSpec

_FP8 = ir.DataType.FLOAT8E4M3FN
_STATISTIC = "R1CalibrationStatistic"
_MID_STATISTIC = "R1CalibrationMidStatistic"
# Inputs of R1DynamicMoE that the second product's input is made of.
MID_INPUTS = ("x", "seq_len", "w_router", "router_bias", "w_gate_up", "shared_gate_up", "gate_up_scale")


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """What is measured of a value.

    Attributes:
        amax: Largest magnitude, N = 1; otherwise the sum of squared FP8 errors for each of `size` scales.
        size: N.
    """

    amax: bool
    size: int

    def measured(self, op: OpBuilder, x: ir.Value, scales: ir.Value) -> ir.Value:
        """FLOAT [N] of any x; 0 of an empty one. `scales` [N] is not read for amax."""
        flat = op.Reshape(to_float(op, x), [-1])
        if self.amax:
            magnitudes = op.Concat(op.Abs(flat), op.Constant(value_floats=[0.0]), axis=0)
            largest: ir.Value = op.ReduceMax(magnitudes, [0], keepdims=1)
            return largest
        errors = []
        for index in range(self.size):
            scale = op.Squeeze(op.Slice(scales, [index], [index + 1], [0]))
            codes = op.QuantizeLinear(flat, scale, output_dtype=_FP8, precision=FLOAT)
            back = op.DequantizeLinear(codes, scale, output_dtype=FLOAT)
            errors.append(op.ReduceSumSquare(op.Sub(flat, back), [0], keepdims=1))
        joined: ir.Value = op.Concat(*errors, axis=0)
        return joined

    def merged(self, op: OpBuilder, first: ir.Value, second: ir.Value) -> ir.Value:
        """Statistic of two values together."""
        result: ir.Value = op.Max(first, second) if self.amax else op.Add(first, second)
        return result


def statistic_function(statistic: Statistic) -> ir.Function:
    """Statistic of any value: x, and N scales."""

    def body(op: OpBuilder, x: ir.Value, scales: ir.Value) -> ir.Value:
        return statistic.measured(op, x, scales)

    return function_from_body(_STATISTIC, ["x", "scales"], body)


def _mid(op: OpBuilder, x: ir.Value, gate_up: ir.Value) -> ir.Value:
    """silu(gate) * up, the input of the second product; x [M,D], gate_up [2F,D]."""
    weight = op.Transpose(op.CastLike(gate_up, x), perm=[1, 0])
    gate, up = op.Split(op.MatMul(x, weight), num_outputs=2, axis=-1, _outputs=2)
    mid: ir.Value = op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)
    return mid


def _expert_loop(
    op: OpBuilder,
    statistic: Statistic,
    x_TD: ir.Value,
    expert_TK: ir.Value,
    kept_TK: ir.Value,
    active_U: ir.Value,
    gate_up: Callable[[OpBuilder, ir.Value], ir.Value],
    scales: ir.Value,
) -> ir.Graph:
    def body(inner: OpBuilder, step: ir.Value, condition: ir.Value, so_far: ir.Value) -> list[ir.Value]:
        expert = inner.Gather(active_U, step, axis=0)
        hits = inner.NonZero(inner.And(inner.Equal(expert_TK, expert), kept_TK))
        x_MD = inner.Gather(x_TD, inner.Gather(hits, 0, axis=0), axis=0)
        measured = statistic.measured(inner, _mid(inner, x_MD, gate_up(inner, expert)), scales)
        return [inner.Identity(condition), statistic.merged(inner, so_far, measured)]

    def value(name: str, dtype: ir.DataType) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(dtype))

    inputs = [value("step", INT64), value("go_on", BOOL), value("so_far", FLOAT)]
    inputs[0].shape, inputs[1].shape = ir.Shape([]), ir.Shape([])  # ONNX Runtime insists
    return subgraph(op, "expert", body, inputs, [value("go_on_out", BOOL), value("so_far_out", FLOAT)])


def mid_statistic_function(spec: MoeSpec, statistic: Statistic, overload: str) -> ir.Function:
    """Statistic of the second product's inputs: routed tokens in their experts, all in the shared one."""

    def body(
        op: OpBuilder,
        x: ir.Value,
        seq_len: ir.Value,
        w_router: ir.Value,
        router_bias: ir.Value,
        w_gate_up: ir.Value,
        shared_gate_up: ir.Value,
        gate_up_scale: ir.Value,
        scales: ir.Value,
    ) -> ir.Value:
        x_TD = op.Reshape(x, [-1, spec.hidden_size])
        real_BS = op.Less(op.Unsqueeze(arange(op, dim(op, x, 1)), [0]), op.Unsqueeze(seq_len, [1]))
        expert_TK, _, kept_TK = route(op, spec, x_TD, w_router, router_bias, op.Reshape(real_BS, [-1]))
        chosen = op.Compress(op.Reshape(expert_TK, [-1]), op.Reshape(kept_TK, [-1]))
        active_U, *_unused = op.Unique(chosen, sorted=1, _outputs=4)
        loop = _expert_loop(
            op,
            statistic,
            x_TD,
            expert_TK,
            kept_TK,
            active_U,
            lambda inner, expert: expert_gate_up(inner, spec, w_gate_up, gate_up_scale, expert),
            scales,
        )
        start = op.Constant(value_floats=[0.0] * statistic.size)
        total: ir.Value = op.Loop(op.Squeeze(dim(op, active_U, 0)), True, start, body=loop)
        if spec.shared_width:
            measured = statistic.measured(op, _mid(op, x_TD, shared_gate_up), scales)
            total = statistic.merged(op, total, measured)
        return total

    return function_from_body(_MID_STATISTIC, [*MID_INPUTS, "scales"], body, overload=overload)
