"""How many tokens R1DynamicMoE gives to each expert, as a model-local function.

Legend: E experts, T tokens, K experts of a token.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import function_from_body
from r1trt.lowerings.histogram import counts
from r1trt.lowerings.router import inputs_by_name, routed_tokens
from r1trt.lowerings.statistics import Statistic
from r1trt.ops.moe_spec import MoeSpec

_ROUTED_COUNTS = "R1CalibrationRoutedTokens"
_INPUTS = ("x", "seq_len", "w_router", "router_bias")


def routed_inputs(spec: MoeSpec) -> tuple[str, ...]:
    """Inputs of R1DynamicMoE that its router reads."""
    return _INPUTS


def routed_counts_function(spec: MoeSpec, statistic: Statistic, overload: str) -> ir.Function:
    """Tokens of each expert, FLOAT [E]; padding and what a token's adaptive K leaves out do not count."""

    def body(op: OpBuilder, *values: ir.Value) -> ir.Value:
        *found, _scales = values
        routed = routed_tokens(op, spec, inputs_by_name(_INPUTS, found))
        expert_M = op.Compress(op.Reshape(routed.expert_TK, [-1]), op.Reshape(routed.kept_TK, [-1]))
        return counts(op, expert_M, statistic.size)

    return function_from_body(_ROUTED_COUNTS, [*_INPUTS, "scales"], body, overload=overload)
