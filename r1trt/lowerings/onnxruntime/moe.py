"""R1DynamicMoE for ONNX Runtime: a loop over the experts that were chosen, each on its own tokens only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import Body
from r1trt.lowerings.builder import BOOL, FLOAT, INT64, dim, subgraph
from r1trt.lowerings.onnxruntime.expert_weights import expert_down, expert_gate_up, stack_of
from r1trt.lowerings.router import Routed, inputs_by_name, routed_tokens
from r1trt.ops.dynamic_moe import MoeSpec, moe_inputs


def swiglu(op: OpBuilder, x: ir.Value, gate_up: ir.Value, down: ir.Value) -> ir.Value:
    """Down @ (silu(gate @ x) * (up @ x)) for x [M,D], gate_up [2F,D] (gate rows first), down [D,F]."""
    weights = [op.Transpose(op.CastLike(weight, x), perm=[1, 0]) for weight in (gate_up, down)]
    gate, up = op.Split(op.MatMul(x, weights[0]), num_outputs=2, axis=-1, _outputs=2)
    y: ir.Value = op.MatMul(op.Mul(op.Mul(gate, op.Sigmoid(gate)), up), weights[1])
    return y


def _loop_body(
    op: OpBuilder,
    name: str,
    routed: Routed,
    active_U: ir.Value,
    gate_up: Callable[[OpBuilder, ir.Value], ir.Value],
    down: Callable[[OpBuilder, ir.Value], ir.Value],
) -> ir.Graph:
    def body(inner: OpBuilder, step: ir.Value, condition: ir.Value, sum_TD: ir.Value) -> list[ir.Value]:
        expert = inner.Gather(active_U, step, axis=0)
        hits = inner.NonZero(inner.And(inner.Equal(routed.expert_TK, expert), routed.kept_TK))
        token_M = inner.Gather(hits, 0, axis=0)
        y_MD = swiglu(
            inner,
            inner.Gather(routed.x_TD, token_M, axis=0),
            gate_up(inner, expert),
            down(inner, expert),
        )
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


def moe_body(spec: MoeSpec) -> Body:
    """Route x [B,S,D] and add up the kept experts and the shared one; padding gives 0 (spec section 1)."""

    def body(op: OpBuilder, *values: ir.Value) -> ir.Value:
        given = inputs_by_name(moe_inputs(spec), values)
        routed = routed_tokens(op, spec, given)
        y_TD = op.Expand(0.0, op.Shape(routed.x_TD))
        for part, active_U in routed.active_by_part(op, spec):
            loop = _loop_body(
                op,
                f"expert{part.index or ''}",
                routed,
                active_U,
                partial(expert_gate_up, spec, stack_of(given, part, "gate_up")),
                partial(expert_down, spec, stack_of(given, part, "down")),
            )
            y_TD = op.Loop(op.Squeeze(dim(op, active_U, 0)), True, y_TD, body=loop)
        if spec.shared_width:
            shared = swiglu(op, routed.x_TD, given["shared_gate_up"], given["shared_down"])
            y_TD = op.Add(y_TD, op.Where(op.Unsqueeze(routed.valid_T, [1]), shared, 0.0))
        y: ir.Value = op.Reshape(y_TD, op.Shape(given["x"]))
        return y

    return body
