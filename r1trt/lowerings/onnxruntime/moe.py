"""R1DynamicMoE for ONNX Runtime: a loop over the experts that were chosen, each on its own tokens only.

Experts in INT8 or INT4 blocks, and those of FP32 engines, are one operator of ONNX Runtime's instead
(block_experts.py, wide_experts.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import Body, to_float
from r1trt.lowerings.builder import FLOAT
from r1trt.lowerings.expert_loop import Turn, expert_loop
from r1trt.lowerings.onnxruntime.block_experts import part_in_blocks, shared_in_blocks
from r1trt.lowerings.onnxruntime.expert_products import Products
from r1trt.lowerings.onnxruntime.expert_weights import (
    Stack,
    expert_scale,
    expert_weight,
    shared_scale,
    shared_weight,
    stack_of,
)
from r1trt.lowerings.onnxruntime.fused_experts import routed_by_parts
from r1trt.lowerings.onnxruntime.wide_experts import wide_part
from r1trt.lowerings.router import Routed, inputs_by_name, routed_tokens
from r1trt.ops.moe_spec import MoeSpec, moe_inputs

PRODUCTS = ("gate_up", "down")


def expert_output(
    products: Products, gate_up: Stack, down: Stack, op: OpBuilder, seen_MD: ir.Value, expert: ir.Value
) -> ir.Value:
    """What one expert, which stands in these stacks, makes of what its products see of its tokens, [M,D]."""
    spec, stacks = products.spec, (gate_up, down)
    weights = [expert_weight(spec, stack, op, expert) for stack in stacks]
    scales = (expert_scale(spec, gate_up, op, expert), expert_scale(spec, down, op, expert))
    return products.swiglu(op, seen_MD, weights[0], weights[1], scales, spec.expert_width)


def _added(
    routed: Routed,
    seen_TD: ir.Value,
    y: Callable[[OpBuilder, ir.Value, ir.Value], ir.Value],
    op: OpBuilder,
    sum_TD: ir.Value,
    turn: Turn,
) -> ir.Value:
    """Adds the weighted results of an expert's tokens; `y` is what an expert makes of them."""
    y_MD = y(op, op.Gather(seen_TD, turn.token_M, axis=0), turn.expert)
    update = op.Mul(y_MD, op.Unsqueeze(turn.weight_M(op, routed), [1]))
    added: ir.Value = op.ScatterND(sum_TD, op.Unsqueeze(turn.token_M, [1]), update, reduction="add")
    return added


def _routed_sum(op: OpBuilder, products: Products, routed: Routed, seen_TD: ir.Value) -> ir.Value:
    """What the routed experts make of all tokens, [T,D]: a loop over those that any token takes."""
    spec = products.spec
    y_TD: ir.Value = op.Expand(0.0, op.Shape(routed.x_TD))
    for part, active_U in routed.active_by_part(op, spec):
        gate_up, down = (stack_of(op, spec, products.given, part, product) for product in PRODUCTS)
        y = partial(expert_output, products, gate_up, down)
        add = partial(_added, routed, seen_TD, y)
        y_TD = expert_loop(op, f"expert{part.index or ''}", routed, active_U, y_TD, add)
    return y_TD


def _shared(op: OpBuilder, products: Products, seen_TD: ir.Value) -> ir.Value:
    spec, given = products.spec, products.given
    if spec.block_size is not None:
        return shared_in_blocks(op, spec, given, seen_TD)
    weights = [shared_weight(op, spec, given, product) for product in PRODUCTS]
    scales = (shared_scale(op, spec, given, "gate_up"), shared_scale(op, spec, given, "down"))
    return products.swiglu(op, seen_TD, weights[0], weights[1], scales, spec.shared_width)


def moe_body(spec: MoeSpec) -> Body:
    """Route x [B,S,D] and add up the kept experts and the shared one; padding gives 0 (spec section 1).

    Whatever the activation type, values are FP32 that it holds; the result has the type of x.
    """

    def body(op: OpBuilder, *values: ir.Value) -> ir.Value:
        given = {**inputs_by_name(moe_inputs(spec), values)}
        x = given["x"]
        if spec.activation != FLOAT:
            given["x"] = to_float(op, x)
        products = Products(spec=spec, given=given)
        routed = routed_tokens(op, spec, given)
        seen_TD = products.seen(op, routed.x_TD, "x_scale", spec.hidden_size)
        if spec.block_size is not None:
            y_TD = routed_by_parts(op, spec, given, routed, part_in_blocks)
        elif spec.alternates:
            y_TD = routed_by_parts(op, spec, given, routed, wide_part)
        else:
            y_TD = _routed_sum(op, products, routed, seen_TD)
        if spec.shared_width:
            shared = _shared(op, products, seen_TD)
            y_TD = op.Add(y_TD, op.Where(op.Unsqueeze(routed.valid_T, [1]), shared, 0.0))
        y_BSD: ir.Value = op.Reshape(y_TD, op.Shape(x))
        return y_BSD if spec.activation == FLOAT else op.CastLike(y_BSD, x)

    return body
