"""Experts in FP32 for ONNX Runtime: com.microsoft.MoE on what our own router decided.

The operator weighs experts by a softmax over the K largest of the numbers that it is given. Logarithms of the
weights give the weights back, up to their sum, which is multiplied in behind it.

Legend: T tokens, E experts of a part, K experts of a token, D hidden size.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.domain import MICROSOFT
from r1trt.lowerings.onnxruntime.fused_experts import ALTERNATING, Given
from r1trt.ops.expert_parts import ExpertPart
from r1trt.ops.moe_spec import MoeSpec

_NEVER = -1e30
"""Stands for the logarithm of 0; with infinities a token without experts would become NaN."""


def wide_part(
    op: OpBuilder, spec: MoeSpec, given: Given, part: ExpertPart, x_TD: ir.Value, weight_TE: ir.Value
) -> ir.Value:
    """The sum over one part's experts."""
    y_TD: ir.Value = op.MoE(
        x_TD,
        op.Max(op.Log(weight_TE), _NEVER),
        given[part.input("w_gate_up")],
        None,
        given[part.input("w_down")],
        k=min(spec.top_k, part.count),
        normalize_routing_weights=1,
        activation_type="swiglu",
        activation_alpha=1.0,
        activation_beta=0.0,
        swiglu_fusion=ALTERNATING,
        _domain=MICROSOFT,
        _version=1,
    )
    sum_T1 = op.ReduceSum(weight_TE, [1], keepdims=1)
    # A token without experts got some all the same, and what they make of padding need not be finite.
    weighed: ir.Value = op.Where(op.Greater(sum_T1, 0.0), op.Mul(y_TD, sum_T1), 0.0)
    return weighed
