"""The router of R1DynamicMoE: which experts a token takes, and with what weights (spec section 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.lowerings.builder import arange, constant, dim
from r1trt.ops.expert_parts import ExpertPart
from r1trt.ops.moe_spec import MoeSpec

NORMALIZATION_EPSILON = 1e-20


@dataclass(frozen=True, kw_only=True)
class Routed:
    """A call's tokens and where they go.

    Attributes:
        x_TD: Tokens of all sequences, padding included.
        valid_T: Which of them are no padding.
        expert_TK: Expert ids, int64.
        weight_TK: Weights, FLOAT.
        kept_TK: False beyond a token's adaptive K and for padding.
        active_U: The experts that any token takes, ascending.
    """

    x_TD: ir.Value
    valid_T: ir.Value
    expert_TK: ir.Value
    weight_TK: ir.Value
    kept_TK: ir.Value
    active_U: ir.Value

    def active_by_part(self, op: OpBuilder, spec: MoeSpec) -> Iterator[tuple[ExpertPart, ir.Value]]:
        """Each part of the stacks, and those of its experts that any token takes, ascending."""
        for part in spec.parts:
            active_U = self.active_U
            if spec.expert_parts > 1:
                inside = op.And(op.GreaterOrEqual(active_U, part.first), op.Less(active_U, part.stop))
                active_U = op.Compress(active_U, inside)
            yield part, active_U


def inputs_by_name(names: Sequence[str], values: Sequence[ir.Value]) -> Mapping[str, ir.Value]:
    """A body's values by the names of the inputs that it declares."""
    return dict(zip(names, values, strict=True))


def _mask_groups(op: OpBuilder, spec: MoeSpec, selection_TE: ir.Value) -> ir.Value:
    """Set the experts outside the best `topk_group` groups to -inf."""
    size = spec.num_experts // spec.n_group
    grouped = op.Reshape(selection_TE, [-1, spec.n_group, size])
    best = min(2, size) if spec.topk_method == "noaux_tc" else 1
    highest, _ = op.TopK(grouped, [best], axis=-1, _outputs=2)
    score_TG = op.ReduceSum(highest, [-1], keepdims=0)
    _, chosen = op.TopK(score_TG, [spec.topk_group], axis=-1, _outputs=2)
    groups = constant(op, np.arange(spec.n_group)[None, :, None])
    open_TG = op.ReduceMax(
        op.Cast(op.Equal(groups, op.Unsqueeze(chosen, [1])), to=ir.DataType.INT32), [2], keepdims=0
    )
    is_open = op.Cast(op.Unsqueeze(open_TG, [2]), to=ir.DataType.BOOL)
    masked: ir.Value = op.Reshape(op.Where(is_open, grouped, float("-inf")), [-1, spec.num_experts])
    return masked


def _adaptive_keep(op: OpBuilder, spec: MoeSpec, weight_TK: ir.Value) -> ir.Value:
    """Rank r stays while the better ranks do not reach the threshold yet, and always below top_k_min."""
    needed = op.Mul(op.ReduceSum(weight_TK, [1], keepdims=1), spec.adaptive_threshold)
    before = op.CumSum(weight_TK, 1, exclusive=1)
    rank = constant(op, np.arange(spec.top_k)[None])
    keep: ir.Value = op.Or(op.Less(before, needed), op.Less(rank, spec.top_k_min))
    return keep


def route(
    op: OpBuilder, spec: MoeSpec, x_TD: ir.Value, w_router_ED: ir.Value, bias_E: ir.Value, valid_T: ir.Value
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Choose experts.

    Returns:
        expert ids [T,K] int64, weights [T,K] FLOAT, and kept [T,K] bool: false beyond a token's adaptive K
        and for padding.
    """
    logits_TE = op.MatMul(x_TD, op.Transpose(w_router_ED, perm=[1, 0]))
    score_TE = op.Softmax(logits_TE, axis=-1) if spec.scoring == "softmax" else op.Sigmoid(logits_TE)
    selection_TE = op.Add(score_TE, bias_E) if spec.has_router_bias else score_TE
    if spec.uses_groups:
        selection_TE = _mask_groups(op, spec, selection_TE)
    _, expert_TK = op.TopK(selection_TE, [spec.top_k], axis=-1, _outputs=2)
    weight_TK = op.GatherElements(score_TE, expert_TK, axis=1)
    kept_TK = op.Expand(op.Unsqueeze(valid_T, [1]), op.Shape(expert_TK))
    if spec.adaptive_threshold < 1.0:
        kept_TK = op.And(kept_TK, _adaptive_keep(op, spec, weight_TK))
    weight_TK = op.Where(kept_TK, weight_TK, 0.0)
    if spec.norm_topk_prob:
        total = op.Add(op.ReduceSum(weight_TK, [1], keepdims=1), NORMALIZATION_EPSILON)
        weight_TK = op.Div(weight_TK, total)
    return expert_TK, op.Mul(weight_TK, spec.routed_scaling_factor), kept_TK


def routed_tokens(op: OpBuilder, spec: MoeSpec, given: Mapping[str, ir.Value]) -> Routed:
    """Choose experts for x [B,S,D] of which seq_len [B] tokens are no padding; FLOAT."""
    x, seq_len = given["x"], given["seq_len"]
    x_TD = op.Reshape(x, [-1, spec.hidden_size])
    real_BS = op.Less(op.Unsqueeze(arange(op, dim(op, x, 1)), [0]), op.Unsqueeze(seq_len, [1]))
    valid_T = op.Reshape(real_BS, [-1])
    chosen = route(op, spec, x_TD, given["w_router"], given["router_bias"], valid_T)
    expert_TK, weight_TK, kept_TK = chosen
    active = op.Compress(op.Reshape(expert_TK, [-1]), op.Reshape(kept_TK, [-1]))
    active_U, *_unused = op.Unique(active, sorted=1, _outputs=4)
    return Routed(
        x_TD=x_TD,
        valid_T=valid_T,
        expert_TK=expert_TK,
        weight_TK=weight_TK,
        kept_TK=kept_TK,
        active_U=active_U,
    )
