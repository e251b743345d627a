"""Rules that make a plan from a graph: products FP8, activations BF16, normalization and routing FP32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import onnx_ir as ir

from r1trt.arch import BuildPrecision
from r1trt.errors import PlanError
from r1trt.graph.weights import is_block_fp8
from r1trt.ops.layer_precision import LayerPrecision, Precision
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.checks import check_plan, graph_hash, layer_nodes
from r1trt.precision.plan import PLAN_KINDS, PrecisionPlan, Thresholds

WeightScaling = Literal["tensor", "channel"]

HEAD = "lm_head"

THRESHOLDS: Mapping[BuildPrecision, Thresholds] = {
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
    precision: BuildPrecision,
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


def _layer(name: str, node: ir.Node, precision: BuildPrecision) -> LayerPrecision:
    operator = layer_operator_of(node)
    assert operator is not None, "layer_nodes finds operators alone"
    activation: Precision = "fp32" if precision == "fp32" else "bf16"
    layer = operator.default_layer(node, activation, fp8=precision == "fp8" and name != HEAD)
    if precision == "fp8" and name == HEAD:
        reason = "the head's logits decide the token; FP8 there costs accuracy and saves little time"
        return replace(layer, reason=reason)
    if any(is_block_fp8(value) for value in node.inputs if value is not None):
        how = "quantized again" if layer.quantizes_weight else "dequantized"
        return replace(layer, reason=f"{layer.reason}; weights {how} from FP8 with block scales")
    return layer
