"""Step 1 of a build, plan: the type of every layer, and the scales of those in FP8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from r1trt.build.target import BuildTarget
from r1trt.build.versions import versions_of_build
from r1trt.export.io import ExportedModel
from r1trt.precision.checks import check_plan, check_plan_fits_model
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import plan_from_rules
from r1trt.progress import Progress, ignore


def plan_for_target(
    export: ExportedModel,
    target: BuildTarget,
    *,
    plan: PrecisionPlan | None = None,
    calibration: Path | None = None,
    progress: Progress = ignore,
) -> PrecisionPlan:
    """The plan to build by, with all its scales.

    Args:
        export: What is built.
        target: What it is built for.
        plan: A plan to use in place of the rules'; its missing scales are found.
        calibration: Text to measure scales on; None takes the package's.
        progress: Called with (phase, done, total).

    Raises:
        PlanError: The plan does not fit the model, the architecture or the builder.
    """
    if plan is None:
        plan = plan_from_rules(export.model, target.arch.name, target.precision)
        plan = replace(plan, builder=versions_of_build(target.backend))
    check_plan(plan, target.arch.name, target.backend)
    check_plan_fits_model(plan, export.model)
    if not plan.missing_scales:
        return plan
    # NOTES: calibration runs the graph, and loads ONNX Runtime for it.
    from r1trt.calibrate.calibrate import CalibrationConfig, calibrated_plan

    config = CalibrationConfig(tokenizer=export.artifact.path, text=calibration)
    return calibrated_plan(plan, export.model, export.weight_base, config, progress)
