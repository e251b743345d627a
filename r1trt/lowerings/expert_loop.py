"""A loop over the experts that any token takes: each turn sees one expert's tokens only.

Legend: T tokens, K experts of a token, U experts that any token takes, M tokens of one expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.lowerings.builder import BOOL, FLOAT, INT64, dim, subgraph
from r1trt.lowerings.router import Routed


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One expert's turn.

    Attributes:
        expert: Its index in the layer, a scalar.
        hits: Where it stands in the routed tokens' [T,K], [2,M].
        token_M: Its tokens.
    """

    expert: ir.Value
    hits: ir.Value
    token_M: ir.Value

    def weight_M(self, op: OpBuilder, routed: Routed) -> ir.Value:
        """The expert's weight in the sum of each of its tokens."""
        weight: ir.Value = op.GatherND(routed.weight_TK, op.Transpose(self.hits, perm=[1, 0]))
        return weight


def expert_loop(
    op: OpBuilder,
    name: str,
    routed: Routed,
    active_U: ir.Value,
    start: ir.Value,
    turn: Callable[[OpBuilder, ir.Value, Turn], ir.Value],
) -> ir.Value:
    """Fold the experts of `active_U` into a FLOAT value, of which `turn` makes the next one."""

    def body(inner: OpBuilder, step: ir.Value, condition: ir.Value, so_far: ir.Value) -> list[ir.Value]:
        expert = inner.Gather(active_U, step, axis=0)
        hits = inner.NonZero(inner.And(inner.Equal(routed.expert_TK, expert), routed.kept_TK))
        token_M = inner.Gather(hits, 0, axis=0)
        following = turn(inner, so_far, Turn(expert=expert, hits=hits, token_M=token_M))
        return [inner.Identity(condition), following]

    def value(label: str, dtype: ir.DataType) -> ir.Value:
        return ir.Value(name=f"{name}_{label}", type=ir.TensorType(dtype))

    inputs = [value("step", INT64), value("go_on", BOOL), value("so_far", FLOAT)]
    inputs[0].shape, inputs[1].shape = ir.Shape([]), ir.Shape([])  # ONNX Runtime insists
    outputs = [value("go_on_out", BOOL), value("so_far_out", FLOAT)]
    graph = subgraph(op, name, body, inputs, outputs)
    result: ir.Value = op.Loop(op.Squeeze(dim(op, active_U, 0)), True, start, body=graph)
    return result
