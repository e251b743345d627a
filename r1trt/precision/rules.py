"""Rules that make a plan from a graph: products FP8, activations BF16, normalization and routing FP32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import onnx_ir as ir

from r1trt.errors import PlanError
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.precision.checks import check_plan, graph_hash, layer_nodes
from r1trt.precision.plan import PLAN_KINDS, LayerPrecision, PlanKind, Precision, PrecisionPlan, Thresholds

WeightScaling = Literal["tensor", "channel"]

HEAD = "lm_head"

THRESHOLDS: Mapping[PlanKind, Thresholds] = {
    # Static FP8 of a 135M model measures KL 0.04, perplexity +3 %, agreement 0.885; larger models lose less.
    "fp8": Thresholds(
        kl_max=0.05, perplexity_increase_max=0.04, agreement_min=0.85, logits_max_relative_error=0.15
    ),
    "bf16": Thresholds(
        kl_max=0.005, perplexity_increase_max=0.01, agreement_min=0.96, logits_max_relative_error=0.05
    ),
    "fp32": Thresholds(
        kl_max=1e-5, perplexity_increase_max=1e-3, agreement_min=0.999, logits_max_relative_error=1e-3
    ),
}


def plan_from_rules(
    model: ir.Model,
    arch: str,
    precision: PlanKind,
    *,
    weight_scaling: WeightScaling = "tensor",
    builder: Mapping[str, str] | None = None,
) -> PrecisionPlan:
    """Make the plan of a graph by rule; FP8 scales stay open until calibration.

    Args:
        model: Exported graph.
        arch: `--arch`.
        precision: What the user asked for.
        weight_scaling: FP8 weights of linears get one scale a tensor, or one a row ("channel").
        builder: Versions of the builder modules, for the plan's header.

    Raises:
        PlanError: FP8 for an architecture without it.
    """
    if precision not in PLAN_KINDS:
        raise PlanError("Unknown precision.", found=precision, expected=" | ".join(PLAN_KINDS))
    layers = {name: _layer(name, node, precision) for name, node in layer_nodes(model).items()}
    plan = PrecisionPlan(
        model_hash=graph_hash(model),
        arch=arch,
        precision=precision,
        builder=builder or {},
        thresholds=THRESHOLDS[precision],
        calibration={"weight_scaling": weight_scaling} if precision == "fp8" else {},
        layers=layers,
    )
    check_plan(plan, arch)
    return plan


def _layer(name: str, node: ir.Node, precision: PlanKind) -> LayerPrecision:
    op = node.op_type
    act: Precision = "fp32" if precision == "fp32" else "bf16"
    if op in ("R1Linear", "R1LinearBias"):
        return _linear(name, op, act, precision)
    if op == "R1DynamicMoE":
        return _moe(node, act, precision)
    if op == "R1RMSNorm":
        return LayerPrecision(
            op=op, input=act, weight="fp32", output=act, reason="normalization is computed in FP32"
        )
    if op == "R1LambdaGate":
        return LayerPrecision(
            op=op,
            input=act,
            weight="fp32",
            output="fp32",
            reason="lam decides which attention branch runs: FP32",
        )
    if op == "R1Embedding":
        return LayerPrecision(
            op=op, input="int64", weight=act, output=act, reason="a lookup; no arithmetic gains from FP8"
        )
    return _pointwise(op, act)


def _linear(name: str, op: str, act: Precision, precision: PlanKind) -> LayerPrecision:
    if precision == "fp8" and name != HEAD:
        return LayerPrecision(
            op=op,
            input="fp8_e4m3",
            weight="fp8_e4m3",
            output=act,
            reason="matrix product on FP8 tensor cores",
        )
    reason = f"matrix product in {act}"
    if precision == "fp8":
        reason = "the head's logits decide the token; FP8 there costs accuracy and saves little time"
    return LayerPrecision(op=op, input=act, weight=act, output=act, reason=reason)


def _moe(node: ir.Node, act: Precision, precision: PlanKind) -> LayerPrecision:
    product: Precision = act
    reason = f"experts in {act}"
    if precision == "fp8":
        product, reason = "fp8_e4m3", "experts on FP8 tensor cores, one weight scale an expert"
    return LayerPrecision(
        op=node.op_type,
        input=product,
        weight=product,
        output=act,
        shared_weight=product if DYNAMIC_MOE.input(node, "shared_down") is not None else None,
        internals="router, selection and routing weights fp32",
        reason=reason,
    )


_POINTWISE_REASONS = {
    "R1SwiGLU": "activation functions in {act}",
    "Add": "residual stream in {act}",
    "R1DynamicRoPE": "angles and rotation in fp32, one rounding to {act}",
    "R1HLAAttention": "attention in {act} whatever stands around it; KV cache in {act}",
}


def _pointwise(op: str, act: Precision) -> LayerPrecision:
    internals = "unverified" if op == "R1HLAAttention" else None
    reason = _POINTWISE_REASONS[op].format(act=act)
    return LayerPrecision(op=op, input=act, output=act, internals=internals, reason=reason)
