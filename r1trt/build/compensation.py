"""Between step 1 and 2 of a build: quantized weights whose rounding errors are made up for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace

import onnx_ir as ir

from r1trt.build.config import BuildConfig
from r1trt.errors import UsageError
from r1trt.export.io import ExportedModel
from r1trt.lifetime.temporary import temporary_directory
from r1trt.ops.layer_precision import INT4
from r1trt.precision.plan import PrecisionPlan
from r1trt.progress import Progress

_RECORD = "compensated_"


def wants_compensation(plan: PrecisionPlan, asked: bool | None) -> bool:
    """What was asked for; of nobody who asked, INT4 weights are compensated, and others are not."""
    if asked is not None:
        return asked
    return any(layer.weight == INT4 for layer in plan.layers.values())


def _require_layers(plan: PrecisionPlan) -> None:
    from r1trt.calibrate.compensated import compensated_layers

    if not compensated_layers(plan):
        raise UsageError(
            "--compensate has nothing to compensate.",
            found=f"no linear of the plan has quantized weights ({plan.precision})",
            fix="leave it out, or build with --int4, --int8 or --fp8",
        )


def _require_text_is_read(build: BuildConfig) -> None:
    if build.plan is not None and build.names_text:
        raise UsageError(
            "Nothing reads the calibration's text: a plan brings its scales, and no weights are compensated.",
            found=build.plan,
            fix="leave out --calibration and --calibration-tokens, or add --compensate",
        )


@contextmanager
def compensated_weights(
    plan: PrecisionPlan, export: ExportedModel, build: BuildConfig, progress: Progress
) -> Iterator[tuple[PrecisionPlan, Mapping[str, ir.TensorProtocol]]]:
    """The plan with a record of it, and quantized weights by name; their files last as long as the block.

    Where no compensation is wanted, the plan as it is, and no weights: they are then rounded to nearest.

    Args:
        plan: With all its scales.
        export: What is built.
        build: Whether weights are to be compensated; the text, and how much of it.
        progress: Called with (phase, done, total).

    Raises:
        R1TrtError: The text, or the model on it, cannot be used.
    """
    # What an earlier build did is no record of this one.
    kept = {key: value for key, value in plan.calibration.items() if not key.startswith(_RECORD)}
    if not wants_compensation(plan, build.compensate):
        _require_text_is_read(build)
        yield replace(plan, calibration=kept), {}
        return
    _require_layers(plan)
    # NOTES: it runs the graph, and loads ONNX Runtime for it.
    from r1trt.calibrate.calibrate import CalibrationConfig, chunks_of_text, record_of_text
    from r1trt.calibrate.compensated import Compensation, compensated_layers

    config = CalibrationConfig(**asdict(build.calibration_options), tokenizer=export.artifact.path)
    chunks = chunks_of_text(export.model, config)
    with temporary_directory("weights") as directory:
        compensation = Compensation(
            plan=plan,
            model=export.model,
            weight_base=export.weight_base,
            chunks=chunks,
            directory=directory,
            progress=progress,
        )
        record = {
            **kept,
            "compensated_layers": len(compensated_layers(plan)),
            **{f"{_RECORD}{name}": value for name, value in record_of_text(config, chunks).items()},
        }
        yield replace(plan, calibration=record), compensation.weights()
