"""How much each expert of R1DynamicMoE adds to its tokens, as a model-local function.

An expert's saliency is the mean, over the tokens that take it, of its weight in their sum times the L2 norm
of its result (REAP, https://arxiv.org/abs/2510.13999); here is the sum, the tokens are `routed_counts`.

Legend: E experts, M tokens of one expert, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import function_from_body
from r1trt.lowerings.expert_loop import Turn, expert_loop
from r1trt.lowerings.onnxruntime.expert_products import Products
from r1trt.lowerings.onnxruntime.expert_weights import stack_of
from r1trt.lowerings.onnxruntime.moe import PRODUCTS, expert_output
from r1trt.lowerings.router import Routed, inputs_by_name, routed_tokens
from r1trt.lowerings.statistics import Statistic
from r1trt.ops.moe_spec import MoeSpec, moe_inputs

_EXPERT_SALIENCY = "R1CalibrationExpertSaliency"
# Inputs of R1DynamicMoE that routed experts of an exported graph are not made of.
_NOT_ROUTED = ("shared_gate_up", "shared_down", "x_scale", "mid_scale")


def saliency_inputs(spec: MoeSpec) -> tuple[str, ...]:
    """Inputs of R1DynamicMoE that the routed experts' results are made of."""
    return tuple(name for name in moe_inputs(spec) if name not in _NOT_ROUTED)


def saliency_function(spec: MoeSpec, statistic: Statistic, overload: str) -> ir.Function:
    """Sum over each expert's tokens of weight times norm of its result, FLOAT [E]; padding does not count."""
    names = saliency_inputs(spec)

    def body(op: OpBuilder, *values: ir.Value) -> ir.Value:
        *found, _scales = values
        given = inputs_by_name(names, found)
        products, routed = Products(spec=spec, given=given), routed_tokens(op, spec, given)
        total: ir.Value = op.Constant(value_floats=[0.0] * statistic.size)
        for part, active_U in routed.active_by_part(op, spec):
            gate_up, down = (stack_of(op, spec, given, part, product) for product in PRODUCTS)
            add = partial(_added, routed, partial(expert_output, products, gate_up, down))
            total = expert_loop(op, f"expert{part.index or ''}", routed, active_U, total, add)
        return total

    return function_from_body(_EXPERT_SALIENCY, [*names, "scales"], body, overload=overload)


def _added(
    routed: Routed,
    y: Callable[[OpBuilder, ir.Value, ir.Value], ir.Value],
    op: OpBuilder,
    so_far_E: ir.Value,
    turn: Turn,
) -> ir.Value:
    y_MD = y(op, op.Gather(routed.x_TD, turn.token_M, axis=0), turn.expert)
    norm_M = op.Sqrt(op.ReduceSumSquare(y_MD, [1], keepdims=0))
    sum_1 = op.ReduceSum(op.Mul(turn.weight_M(op, routed), norm_M), [0], keepdims=1)
    place_1 = op.Unsqueeze(turn.expert, [0])
    added: ir.Value = op.ScatterElements(so_far_E, place_1, sum_1, axis=0, reduction="add")
    return added
