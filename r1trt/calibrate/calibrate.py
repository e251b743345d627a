"""Static FP8 scales: complete a precision plan from text and from the checkpoint's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from r1trt.artifacts.disk import sha256_of_file
from r1trt.calibrate.ranges import CALIBRATION_METHODS, CalibrationMethod, activation_scales
from r1trt.calibrate.text import TokenChunks, token_chunks
from r1trt.calibrate.weights import weight_scales
from r1trt.data import CALIBRATION
from r1trt.errors import PlanError
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.registry import operator_of_layer
from r1trt.precision.plan import PrecisionPlan
from r1trt.progress import Progress, ignore
from r1trt.runtime.prompts import documents_from_file, encoded_documents
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Options of a calibration.

    Attributes:
        tokenizer: Directory of the model's `tokenizer.json`, and of its chat template where it has one.
        text: `.txt` or `.jsonl` file; None for the text that comes with the package.
        method: `amax`: the largest magnitude becomes 448. `mse`: the scale of the smallest squared error.
        tokens: Tokens to measure on.
        chunk: Tokens of one call.
    """

    tokenizer: Path
    text: Path | None = None
    method: CalibrationMethod = "mse"
    tokens: int = 8192
    chunk: int = 512

    def __post_init__(self) -> None:
        """Raises PlanError for a value out of range."""
        if self.method not in CALIBRATION_METHODS:
            raise PlanError(
                "Unknown calibration method.", found=self.method, expected=" | ".join(CALIBRATION_METHODS)
            )
        if self.tokens < 1 or self.chunk < 1:
            raise PlanError(
                "Calibration needs tokens.", found=(self.tokens, self.chunk), expected="at least 1"
            )


def calibrated_plan(
    plan: PrecisionPlan,
    model: ir.Model,
    weight_base: Path,
    config: CalibrationConfig,
    progress: Progress = ignore,
) -> PrecisionPlan:
    """Complete a plan: activation scales from text, weight scales from the checkpoint; given scales stay.

    Args:
        plan: A plan for `model`; one that lacks no scale comes back as it is.
        model: Exported graph with `onnxruntime` bodies.
        weight_base: Directory that the graph's external weights are relative to.
        config: What to run, and how.
        progress: Called with (phase, done, total).

    Raises:
        R1TrtError: The text or the tokenizer cannot be used, or an activation is not finite.
    """
    if not plan.missing_scales:
        return plan
    text = config.text or CALIBRATION
    chunks = _chunks(text, model, config)
    found = [
        activation_scales(plan, model, weight_base, chunks, config.method, progress),
        weight_scales(plan, model, progress),
    ]
    layers = dict(plan.layers)
    for scales in found:
        layers |= {key: _completed(layers[key], scales[key]) for key in scales}
    record: dict[str, str | int | float] = {
        **plan.calibration,
        "method": config.method,
        "tokens": sum(map(len, chunks)),
        "text": "package" if config.text is None else config.text.name,
        "text_sha256": sha256_of_file(text),
    }
    return replace(plan, layers=layers, calibration=record)


def _chunks(text: Path, model: ir.Model, config: CalibrationConfig) -> TokenChunks:
    tokenizer = tokenizer_from_dir(config.tokenizer)
    encoded = encoded_documents(documents_from_file(text), tokenizer, vocab_size=_vocab_size(model))
    return token_chunks(encoded, length=config.chunk, tokens=config.tokens)


def _vocab_size(model: ir.Model) -> int:
    """Logits are [B, S, V], or [B, V]."""
    shape = model.graph.outputs[0].shape
    assert shape is not None and isinstance(shape[-1], int), "an exported graph's logits have a fixed V"
    return shape[-1]


def _completed(layer: LayerPrecision, found: Mapping[str, Any]) -> LayerPrecision:
    """Fill what the layer lacks; a scale that someone set is theirs."""
    lacking = {name: found[name] for name in operator_of_layer(layer).missing_scales(layer) if name in found}
    if "weight_scale" in lacking:
        lacking["weight_axis"] = found["weight_axis"]
        lacking["weight_error"] = found.get("weight_error")
    return replace(layer, **lacking)
