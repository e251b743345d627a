"""What calibration measures of a value, as model-local functions: a few values, whatever the batch.

A statistic reduces inside the graph, so calibration holds no activations. Legend: N values of a statistic;
T tokens, E experts, D hidden size, F expert width as in R1DynamicMoE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.codes import FP8_CODES, CodeType
from r1trt.graph.functions import function_from_body, to_float
from r1trt.lowerings.builder import FLOAT
from r1trt.lowerings.expert_loop import Turn, expert_loop
from r1trt.lowerings.onnxruntime.expert_weights import expert_weight, stack_of
from r1trt.lowerings.router import Routed, inputs_by_name, routed_tokens
from r1trt.ops.moe_spec import MoeSpec, moe_inputs

_STATISTIC = "R1CalibrationStatistic"
_MID_STATISTIC = "R1CalibrationMidStatistic"
# Inputs of R1DynamicMoE that the second product's input is not made of.
_NOT_IN_MID = ("w_down", "shared_down", "x_scale", "mid_scale", "down_scale")


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """What is measured of a value.

    Attributes:
        amax: Largest magnitude, N = 1; otherwise the sum of squared errors for each of `size` scales.
        size: N.
        codes: What values are quantized to where errors are summed.
    """

    amax: bool
    size: int
    codes: CodeType = FP8_CODES

    @property
    def overload(self) -> str:
        """What tells its functions in one graph apart."""
        return self.codes.name

    @property
    def wants(self) -> int:
        """How many numbers it is given of a value, where nobody gives others."""
        return self.size

    def measured(self, op: OpBuilder, x: ir.Value, scales: ir.Value) -> ir.Value:
        """FLOAT [N] of any x; 0 of an empty one, NaN where x is not finite. amax reads no `scales` [N]."""
        flat = op.Reshape(to_float(op, x), [-1])
        if self.amax:
            magnitudes = op.Concat(op.Abs(flat), op.Constant(value_floats=[0.0]), axis=0)
            # NOTES: ONNX Runtime's ReduceMax passes over a NaN; 0 times one, or times infinity, is NaN.
            broken = op.ReduceSum(op.Mul(flat, 0.0), [0], keepdims=1)
            largest: ir.Value = op.Add(op.ReduceMax(magnitudes, [0], keepdims=1), broken)
            return largest
        errors = []
        for index in range(self.size):
            scale = op.Squeeze(op.Slice(scales, [index], [index + 1], [0]))
            codes = op.QuantizeLinear(flat, scale, output_dtype=self.codes.dtype, precision=FLOAT)
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

    return function_from_body(_STATISTIC, ["x", "scales"], body, overload=statistic.overload)


def _mid(op: OpBuilder, x: ir.Value, gate_up: ir.Value) -> ir.Value:
    """silu(gate) * up, the input of the second product; x [M,D], gate_up [2F,D]."""
    weight = op.Transpose(op.CastLike(gate_up, x), perm=[1, 0])
    gate, up = op.Split(op.MatMul(x, weight), num_outputs=2, axis=-1, _outputs=2)
    mid: ir.Value = op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)
    return mid


def _folded(
    statistic: Statistic,
    routed: Routed,
    gate_up: Callable[[OpBuilder, ir.Value], ir.Value],
    scales: ir.Value,
    op: OpBuilder,
    so_far: ir.Value,
    turn: Turn,
) -> ir.Value:
    x_MD = op.Gather(routed.x_TD, turn.token_M, axis=0)
    measured = statistic.measured(op, _mid(op, x_MD, gate_up(op, turn.expert)), scales)
    return statistic.merged(op, so_far, measured)


def mid_inputs(spec: MoeSpec) -> tuple[str, ...]:
    """Inputs of R1DynamicMoE that the second product's input is made of."""
    return tuple(name for name in moe_inputs(spec) if name.partition(".")[0] not in _NOT_IN_MID)


def mid_statistic_function(spec: MoeSpec, statistic: Statistic, overload: str) -> ir.Function:
    """Statistic of the second product's inputs: routed tokens in their experts, all in the shared one."""

    def body(op: OpBuilder, *values: ir.Value) -> ir.Value:
        *found, scales = values
        given = inputs_by_name(mid_inputs(spec), found)
        routed = routed_tokens(op, spec, given)
        total: ir.Value = op.Constant(value_floats=[0.0] * statistic.size)
        for part, active_U in routed.active_by_part(op, spec):
            gate_up = partial(expert_weight, spec, stack_of(op, spec, given, part, "gate_up"))
            fold = partial(_folded, statistic, routed, gate_up, scales)
            total = expert_loop(op, f"expert{part.index or ''}", routed, active_U, total, fold)
        if spec.shared_width:
            measured = statistic.measured(op, _mid(op, routed.x_TD, given["shared_gate_up"]), scales)
            total = statistic.merged(op, total, measured)
        return total

    return function_from_body(_MID_STATISTIC, [*mid_inputs(spec), "scales"], body, overload=overload)
