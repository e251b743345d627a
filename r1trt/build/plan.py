"""Step 1 of a build, plan: the type of every layer, what computes it, and the scales of what is quantized."""

from __future__ import annotations

from dataclasses import asdict, replace

from r1trt.build.target import BuildTarget
from r1trt.build.versions import versions_of_build
from r1trt.calibrate.options import CalibrationOptions
from r1trt.export.io import ExportedModel
from r1trt.ops.layer_precision import FP8
from r1trt.ops.registry import operator_of_layer
from r1trt.precision.checks import check_plan, check_plan_fits_model, layer_nodes
from r1trt.precision.implementations import with_implementations, without_native
from r1trt.precision.kv_cache import with_cache_type
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import Requantize, is_in_block_fp8, plan_from_rules
from r1trt.progress import Progress, ignore


def plan_for_target(
    export: ExportedModel,
    target: BuildTarget,
    *,
    plan: PrecisionPlan | None = None,
    requantize: Requantize = "none",
) -> PrecisionPlan:
    """The plan to build by; its scales may be missing.

    Args:
        export: What is built.
        target: What it is built for.
        plan: A plan to use in place of the rules'.
        requantize: For the rules: what becomes of FP8 with block scales that no product takes.

    Raises:
        PlanError: The plan does not fit the model, the architecture or the builder.
    """
    if plan is None:
        plan = plan_from_rules(
            export.model,
            target.arch.name,
            target.precision,
            backend=target.backend,
            requantize=requantize,
            plugins=target.plugins,
        )
        plan = replace(plan, builder=versions_of_build(target.backend))
    elif target.backend == "tensorrt":
        plan = with_implementations(plan, export.model, target.plugins)
    else:
        plan = without_native(plan)
    if target.kv_cache is not None:
        plan = with_cache_type(plan, target.kv_cache)
    check_plan(plan, target.arch.name, target.backend)
    check_plan_fits_model(plan, export.model)
    return plan


def with_scales(
    plan: PrecisionPlan,
    export: ExportedModel,
    *,
    calibration: CalibrationOptions | None = None,
    progress: Progress = ignore,
) -> PrecisionPlan:
    """A plan with all its scales.

    Args:
        plan: A plan for the export.
        export: What is built.
        calibration: How scales are found, and on which text; None takes the defaults.
        progress: Called with (phase, done, total).

    Raises:
        R1TrtError: The text, or the model on it, gives no scales.
    """
    _say_what_is_dequantized(plan, export, progress)
    if not plan.missing_scales:
        return plan
    # NOTES: calibration runs the graph, and loads ONNX Runtime for it.
    from r1trt.calibrate.calibrate import CalibrationConfig, calibrated_plan

    options = asdict(calibration or CalibrationOptions())
    config = CalibrationConfig(**options, tokenizer=export.artifact.path, weights=export.weight_marks())
    plan = calibrated_plan(plan, export.model, export.weight_base, config, progress)
    _say_what_is_requantized(plan, progress)
    return plan


def _say_what_is_requantized(plan: PrecisionPlan, progress: Progress) -> None:
    errors = [layer.weight_error for layer in plan.layers.values() if layer.weight_error is not None]
    if errors:
        progress(
            f"{len(errors)} layers quantized again from FP8 with block scales; their weights change by "
            f"{sum(errors) / len(errors):.2%} on average, {max(errors):.2%} at most",
            1,
            1,
        )


def _say_what_is_dequantized(plan: PrecisionPlan, export: ExportedModel, progress: Progress) -> None:
    """Of a plan in FP8, which of the checkpoint's own FP8 weights it does not multiply in FP8."""
    if plan.precision != "fp8":
        return
    nodes = layer_nodes(export.model)
    wide = [
        name
        for name, layer in plan.layers.items()
        if not layer.quantizes_weight
        and is_in_block_fp8(nodes[name])
        and FP8 in operator_of_layer(layer).types.weight
    ]
    if wide:
        progress(
            f"{len(wide)} layers dequantized from FP8 with block scales; --requantize tensor makes them FP8",
            1,
            1,
        )
