"""Experts as one operator of ONNX Runtime's a part, on what our own router decided.

Such an operator takes the weights of every expert for every token, and its stacks are constants.

Legend: T tokens, E experts, K experts of a token, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.lowerings.builder import dim, dims
from r1trt.lowerings.router import Routed
from r1trt.ops.expert_parts import ExpertPart
from r1trt.ops.moe_spec import MoeSpec

Given = Mapping[str, ir.Value]
PartSum = Callable[[OpBuilder, MoeSpec, Given, ExpertPart, ir.Value, ir.Value], ir.Value]
"""What one part's experts make of x [T,D] with the weights [T,E] of that part's experts, [T,D]."""

ALTERNATING = 1
"""swiglu_fusion: the only layout of gate and up that kernels for the CPU take."""


def routed_by_parts(
    op: OpBuilder, spec: MoeSpec, given: Given, routed: Routed, part_sum: PartSum
) -> ir.Value:
    """What the routed experts make of all tokens, [T,D]."""
    nothing_TE = op.Expand(0.0, dims(op, dim(op, routed.x_TD, 0), spec.num_experts))
    weight_TE = op.ScatterElements(nothing_TE, routed.expert_TK, routed.weight_TK, axis=1)
    y_TD: ir.Value | None = None
    for part in spec.parts:
        own_TE = weight_TE
        if spec.expert_parts > 1:
            own_TE = op.Slice(weight_TE, [part.first], [part.stop], [1])
        added = part_sum(op, spec, given, part, routed.x_TD, own_TE)
        y_TD = added if y_TD is None else op.Add(y_TD, added)
    assert y_TD is not None, "there is at least one part"
    return y_TD
