"""R1DynamicMoE for ONNX Runtime: a loop over the experts that were chosen, each on its own tokens only."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import Body
from r1trt.lowerings.builder import BOOL, FLOAT, INT64, arange, dim, subgraph
from r1trt.lowerings.onnxruntime.expert_weights import expert_down, expert_gate_up
from r1trt.lowerings.router import route
from r1trt.ops.dynamic_moe import MoeSpec


def swiglu(op: OpBuilder, x: ir.Value, gate_up: ir.Value, down: ir.Value) -> ir.Value:
    """Down @ (silu(gate @ x) * (up @ x)) for x [M,D], gate_up [2F,D] (gate rows first), down [D,F]."""
    weights = [op.Transpose(op.CastLike(weight, x), perm=[1, 0]) for weight in (gate_up, down)]
    gate, up = op.Split(op.MatMul(x, weights[0]), num_outputs=2, axis=-1, _outputs=2)
    y: ir.Value = op.MatMul(op.Mul(op.Mul(gate, op.Sigmoid(gate)), up), weights[1])
    return y


def _loop_body(
    op: OpBuilder,
    x_TD: ir.Value,
    expert_TK: ir.Value,
    weight_TK: ir.Value,
    kept_TK: ir.Value,
    active_U: ir.Value,
    gate_up: Callable[[OpBuilder, ir.Value], ir.Value],
    down: Callable[[OpBuilder, ir.Value], ir.Value],
) -> ir.Graph:
    def body(inner: OpBuilder, step: ir.Value, condition: ir.Value, sum_TD: ir.Value) -> list[ir.Value]:
        expert = inner.Gather(active_U, step, axis=0)
        hits = inner.NonZero(inner.And(inner.Equal(expert_TK, expert), kept_TK))
        token_M = inner.Gather(hits, 0, axis=0)
        y_MD = swiglu(
            inner,
            inner.Gather(x_TD, token_M, axis=0),
            gate_up(inner, expert),
            down(inner, expert),
        )
        weight_M = inner.GatherND(weight_TK, inner.Transpose(hits, perm=[1, 0]))
        update = inner.Mul(y_MD, inner.Unsqueeze(weight_M, [1]))
        added = inner.ScatterND(sum_TD, inner.Unsqueeze(token_M, [1]), update, reduction="add")
        return [inner.Identity(condition), added]

    inputs = [
        ir.Value(name="step", type=ir.TensorType(INT64), shape=ir.Shape([])),
        ir.Value(name="go_on", type=ir.TensorType(BOOL), shape=ir.Shape([])),
        ir.Value(name="sum", type=ir.TensorType(FLOAT)),
    ]
    outputs = [
        ir.Value(name="go_on_out", type=ir.TensorType(BOOL)),
        ir.Value(name="sum_out", type=ir.TensorType(FLOAT)),
    ]
    return subgraph(op, "expert", body, inputs, outputs)


def moe_body(spec: MoeSpec) -> Body:
    """Route x [B,S,D] and add up the kept experts and the shared one; padding gives 0 (spec section 1)."""

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
        _x_scale: ir.Value,
        gate_up_scale: ir.Value,
        _mid_scale: ir.Value,
        down_scale: ir.Value,
    ) -> ir.Value:
        x_TD = op.Reshape(x, [-1, spec.hidden_size])
        real_BS = op.Less(op.Unsqueeze(arange(op, dim(op, x, 1)), [0]), op.Unsqueeze(seq_len, [1]))
        valid_T = op.Reshape(real_BS, [-1])
        expert_TK, weight_TK, kept_TK = route(op, spec, x_TD, w_router, router_bias, valid_T)
        chosen = op.Compress(op.Reshape(expert_TK, [-1]), op.Reshape(kept_TK, [-1]))
        active_U, *_unused = op.Unique(chosen, sorted=1, _outputs=4)
        loop = _loop_body(
            op,
            x_TD,
            expert_TK,
            weight_TK,
            kept_TK,
            active_U,
            lambda inner, expert: expert_gate_up(inner, spec, w_gate_up, gate_up_scale, expert),
            lambda inner, expert: expert_down(inner, spec, w_down, down_scale, expert),
        )
        y_TD = op.Loop(op.Squeeze(dim(op, active_U, 0)), True, op.Expand(0.0, op.Shape(x_TD)), body=loop)
        if spec.shared_width:
            shared = swiglu(op, x_TD, shared_gate_up, shared_down)
            y_TD = op.Add(y_TD, op.Where(op.Unsqueeze(valid_T, [1]), shared, 0.0))
        y: ir.Value = op.Reshape(y_TD, op.Shape(x))
        return y

    return body
