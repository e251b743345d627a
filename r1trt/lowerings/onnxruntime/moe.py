"""R1DynamicMoE for ONNX Runtime: a loop over the experts that were chosen, each on its own tokens only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import Body, to_float
from r1trt.lowerings.builder import BOOL, FLOAT, INT64, dim, subgraph
from r1trt.lowerings.onnxruntime.expert_products import Products
from r1trt.lowerings.onnxruntime.expert_weights import (
    Stack,
    expert_scale,
    expert_weight,
    shared_scale,
    shared_weight,
    stack_of,
)
from r1trt.lowerings.router import Routed, inputs_by_name, routed_tokens
from r1trt.ops.moe_spec import MoeSpec, moe_inputs

PRODUCTS = ("gate_up", "down")


def _loop_body(
    op: OpBuilder,
    name: str,
    routed: Routed,
    seen_TD: ir.Value,
    active_U: ir.Value,
    y: Callable[[OpBuilder, ir.Value, ir.Value], ir.Value],
) -> ir.Graph:
    """Adds the tokens of each expert of `active_U`; `y` is what an expert makes of its tokens."""

    def body(inner: OpBuilder, step: ir.Value, condition: ir.Value, sum_TD: ir.Value) -> list[ir.Value]:
        expert = inner.Gather(active_U, step, axis=0)
        hits = inner.NonZero(inner.And(inner.Equal(routed.expert_TK, expert), routed.kept_TK))
        token_M = inner.Gather(hits, 0, axis=0)
        y_MD = y(inner, inner.Gather(seen_TD, token_M, axis=0), expert)
        weight_M = inner.GatherND(routed.weight_TK, inner.Transpose(hits, perm=[1, 0]))
        update = inner.Mul(y_MD, inner.Unsqueeze(weight_M, [1]))
        added = inner.ScatterND(sum_TD, inner.Unsqueeze(token_M, [1]), update, reduction="add")
        return [inner.Identity(condition), added]

    inputs = [
        ir.Value(name=f"{name}_step", type=ir.TensorType(INT64), shape=ir.Shape([])),
        ir.Value(name=f"{name}_go_on", type=ir.TensorType(BOOL), shape=ir.Shape([])),
        ir.Value(name=f"{name}_sum", type=ir.TensorType(FLOAT)),
    ]
    outputs = [
        ir.Value(name=f"{name}_go_on_out", type=ir.TensorType(BOOL)),
        ir.Value(name=f"{name}_sum_out", type=ir.TensorType(FLOAT)),
    ]
    return subgraph(op, name, body, inputs, outputs)


def _expert(
    products: Products, gate_up: Stack, down: Stack, op: OpBuilder, seen_MD: ir.Value, expert: ir.Value
) -> ir.Value:
    spec, stacks = products.spec, (gate_up, down)
    weights = [expert_weight(spec, stack, op, expert) for stack in stacks]
    scales = (expert_scale(spec, gate_up, op, expert), expert_scale(spec, down, op, expert))
    return products.swiglu(op, seen_MD, weights[0], weights[1], scales, spec.expert_width)


def _shared(op: OpBuilder, products: Products, seen_TD: ir.Value) -> ir.Value:
    spec, given = products.spec, products.given
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
        y_TD = op.Expand(0.0, op.Shape(routed.x_TD))
        for part, active_U in routed.active_by_part(op, spec):
            gate_up, down = (stack_of(op, spec, given, part, product) for product in PRODUCTS)
            y = partial(_expert, products, gate_up, down)
            loop = _loop_body(op, f"expert{part.index or ''}", routed, seen_TD, active_U, y)
            y_TD = op.Loop(op.Squeeze(dim(op, active_U, 0)), True, y_TD, body=loop)
        if spec.shared_width:
            shared = _shared(op, products, seen_TD)
            y_TD = op.Add(y_TD, op.Where(op.Unsqueeze(routed.valid_T, [1]), shared, 0.0))
        y_BSD: ir.Value = op.Reshape(y_TD, op.Shape(x))
        return y_BSD if spec.activation == FLOAT else op.CastLike(y_BSD, x)

    return body
