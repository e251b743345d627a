"""Rules that make a plan from a graph: products FP8, activations BF16, normalization and routing FP32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import onnx_ir as ir

from r1trt.arch import Backend, BuildPrecision, architecture
from r1trt.errors import PlanError
from r1trt.graph.interface import HEAD
from r1trt.graph.weights import is_block_fp8
from r1trt.ops.layer_precision import FP8, INT4, INT8, LayerPrecision, Precision
from r1trt.ops.linear import LinearSpec
from r1trt.ops.operator import Operator
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.checks import check_plan, graph_hash, layer_nodes
from r1trt.precision.implementations import PluginUse, with_implementations
from r1trt.precision.plan import PLAN_KINDS, PrecisionPlan, Thresholds

WeightScaling = Literal["tensor", "channel"]
Requantize = Literal["none", "tensor", "channel"]
"""What becomes of a checkpoint's FP8 with block scales where no product takes it: BF16, or FP8 again."""

BLOCK_SIZE = 32
"""Of weights in blocks: larger ones save a scale's bits and cost accuracy."""
BLOCK_SIZES_TRIED = (BLOCK_SIZE, 16)
"""In this order: rows of experts' weights are whole blocks, others are padded."""

THRESHOLDS: Mapping[BuildPrecision, Thresholds] = {
    # Static FP8 of a 135M model measures KL 0.04, perplexity +3 %, agreement 0.885; larger models lose less.
    "fp8": Thresholds(
        kl_max=0.05, perplexity_increase_max=0.04, agreement_min=0.85, logits_max_relative_error=0.15
    ),
    # The same model in blocks: KL 0.005 and +0.7 % in INT8; 0.05 and +4 % in INT4, compensated.
    "int8": Thresholds(
        kl_max=0.01, perplexity_increase_max=0.02, agreement_min=0.93, logits_max_relative_error=0.15
    ),
    "int4": Thresholds(
        kl_max=0.12, perplexity_increase_max=0.1, agreement_min=0.78, logits_max_relative_error=0.6
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
    backend: Backend | None = None,
    weight_scaling: WeightScaling = "tensor",
    requantize: Requantize = "none",
    plugins: PluginUse = "needed",
) -> PrecisionPlan:
    """Make the plan of a graph by rule; FP8 scales stay open until calibration.

    FP8 with block scales stays in products that take it, experts' on Hopper and the CPU.

    Args:
        model: Exported graph.
        arch: `--arch`.
        precision: What the user asked for.
        backend: Builder; None means the architecture's own.
        weight_scaling: FP8 weights of linears get one scale a tensor, or one a row ("channel").
        requantize: Scaling of weights that are quantized again; "none" dequantizes them.
        plugins: For the backend "tensorrt": which layers become plugins.

    Raises:
        PlanError: FP8 for an architecture without it, or nothing to quantize again.
    """
    if precision not in PLAN_KINDS:
        raise PlanError("Unknown precision.", found=precision, expected=" | ".join(PLAN_KINDS))
    nodes = layer_nodes(model)
    if requantize != "none":
        _require_requantizable(nodes, precision)
        weight_scaling = requantize
    backend = backend or architecture(arch).backend
    rules = _Rules(precision=precision, backend=backend, requantize=requantize != "none")
    plan = PrecisionPlan(
        model_hash=graph_hash(model),
        arch=arch,
        precision=precision,
        thresholds=THRESHOLDS[precision],
        calibration=_scaling_record(precision, backend, weight_scaling),
        layers={name: rules.layer(name, node) for name, node in nodes.items()},
    )
    check_plan(plan, arch)
    return with_implementations(plan, model, plugins) if backend == "tensorrt" else plan


def layer_in_blocks(node: ir.Node, wide: LayerPrecision, weight: Precision) -> LayerPrecision:
    """A layer with its weights in INT8 or INT4 blocks; as it is where it takes none, or its rows are none."""
    operator, problems = _operator(node), []
    for size in BLOCK_SIZES_TRIED:
        layer = operator.in_blocks(wide, weight, size)
        if layer.block_size is None:
            return wide
        problems = list(operator.node_problems(node, layer))
        if not problems:
            return replace(layer, reason=_reason_of_blocks(layer))
    return replace(wide, reason=f"{wide.reason}; not in blocks: {'; '.join(problems)}")


def _needs_int8(name: str, node: ir.Node) -> str | None:
    """Why the rules give a layer INT8 where others have INT4; None where they do not.

    Of SmolLM2-135M in INT4 down, k and v projections in INT8 take 16 MB more, and halve the KL divergence.
    """
    if name == HEAD:
        return "the head's logits decide the token"
    spec = _operator(node).spec_from_node(node)
    if isinstance(spec, LinearSpec) and spec.out_features < spec.in_features:
        return "more depends on each of its few outputs"
    return None


def _reason_of_blocks(layer: LayerPrecision) -> str:
    inputs = ", activations in INT8 blocks as they come" if layer.quantizes_input else ""
    return f"weights in {str(layer.weight).upper()} blocks{inputs}"


def _scaling_record(
    precision: BuildPrecision, backend: Backend, weight_scaling: WeightScaling
) -> dict[str, str | int | float]:
    scaling = {"fp8": weight_scaling, "int8": "channel"}
    blocks = backend == "onnxruntime" and precision == "int8"
    return {"weight_scaling": scaling[precision]} if precision in scaling and not blocks else {}


def is_in_block_fp8(node: ir.Node) -> bool:
    """Whether a checkpoint has any weight of a layer in FP8 with block scales."""
    return any(is_block_fp8(value) for value in node.inputs if value is not None)


def _require_requantizable(nodes: Mapping[str, ir.Node], precision: BuildPrecision) -> None:
    if precision != "fp8":
        raise PlanError(
            "Weights are quantized again for FP8 products alone.",
            found=f"precision {precision}",
            fix="build with --fp8, or leave --requantize out",
        )
    if not any(map(is_in_block_fp8, nodes.values())):
        raise PlanError(
            "There is nothing to quantize again: the checkpoint has no FP8 weights with block scales.",
            fix="leave --requantize out; --fp8 quantizes the weights that the checkpoint has",
        )


@dataclass(frozen=True, kw_only=True)
class _Rules:
    precision: BuildPrecision
    backend: Backend
    requantize: bool

    def layer(self, name: str, node: ir.Node) -> LayerPrecision:
        operator, fp8 = _operator(node), self.precision == "fp8"
        if self.precision in (INT8, INT4) and INT8 in operator.types.weight:
            layer = self._of_integers(name, node)
            if layer is not None:
                again = (
                    "; weights quantized again from FP8 with block scales" if is_in_block_fp8(node) else ""
                )
                return replace(layer, reason=layer.reason + again)
        if is_in_block_fp8(node):
            return self._of_block_fp8(node)
        layer = operator.default_layer(node, self._activation, fp8=fp8 and name != HEAD)
        if fp8 and name == HEAD:
            reason = "the head's logits decide the token; FP8 there costs accuracy and saves little time"
            return replace(layer, reason=reason)
        return layer

    def _of_integers(self, name: str, node: ir.Node) -> LayerPrecision | None:
        """The layer with integer weights; None where the backend has none for it."""
        operator = _operator(node)
        wide = operator.default_layer(node, self._activation, fp8=False)
        if self.backend != "onnxruntime":
            reason = "weights in INT8, one scale a row, widened inside the product"
            layer = replace(wide, weight=INT8, reason=reason)
            return None if any(operator.problems(layer)) else layer
        wider = _needs_int8(name, node) if self.precision == INT4 else None
        layer = layer_in_blocks(node, wide, INT4 if self.precision == INT4 and wider is None else INT8)
        if not layer.quantizes_weight and is_in_block_fp8(node):
            return None  # the checkpoint's own FP8 is narrower
        if wider is None or not layer.quantizes_weight:
            return layer
        return replace(layer, reason=f"{wider}; {layer.reason}")

    @property
    def _activation(self) -> Precision:
        integers = self.backend == "onnxruntime" and self.precision in (INT8, INT4)
        return "fp32" if self.precision == "fp32" or integers else "bf16"

    def _of_block_fp8(self, node: ir.Node) -> LayerPrecision:
        operator, fp8 = _operator(node), self.precision == "fp8"
        wide = operator.default_layer(node, self._activation, fp8=False)
        dequantized = f"{wide.reason}; weights dequantized from FP8 with block scales"
        problems = self._problems(operator, node) if operator.block_scales else []
        if operator.block_scales and not problems:
            return replace(
                wide,
                input=FP8 if fp8 else wide.input,
                weight=FP8,
                shared_weight=None if wide.shared_weight is None else FP8,
                own_scales=True,
                reason="the checkpoint's own FP8 with block scales, exact",
            )
        if self.requantize:
            layer = operator.default_layer(node, self._activation, fp8=fp8)
            again = f"{layer.reason}; weights quantized again from FP8 with block scales"
            return replace(layer, reason=again if layer.quantizes_weight else dequantized)
        return replace(wide, reason=f"{dequantized}{': ' if problems else ''}{'; '.join(problems)}")

    def _problems(self, operator: Operator[Any], node: ir.Node) -> list[str]:
        if self.backend == "tensorrt-rtx":
            return ["TensorRT-RTX multiplies by no block scales"]
        return list(operator.own_scales_problems(node, plugin=self.backend == "tensorrt"))


def _operator(node: ir.Node) -> Operator[Any]:
    operator = layer_operator_of(node)
    assert operator is not None, "layer_nodes finds operators alone"
    return operator
