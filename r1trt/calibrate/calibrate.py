"""Static scales: complete a precision plan from text and from the checkpoint's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from r1trt.artifacts.disk import sha256_of_file
from r1trt.calibrate.options import CalibrationOptions
from r1trt.calibrate.ranges import ActivationScales, activation_scales
from r1trt.calibrate.rare_experts import rare_experts_line
from r1trt.calibrate.statistics_cache import StatisticsCache
from r1trt.calibrate.text import TokenChunks, token_chunks
from r1trt.calibrate.weights import weight_scales
from r1trt.data import CALIBRATION
from r1trt.errors import ConfigError, PlanError
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.registry import operator_of_layer
from r1trt.precision.plan import PrecisionPlan
from r1trt.progress import Progress, ignore
from r1trt.runtime.prompts import Document, documents_from_file, encoded_documents
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

_CHARACTERS = 8
"""Of a long text are read for each token that is wanted, and twice as many where they are not enough."""


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig(CalibrationOptions):
    """Options of a calibration, and what it reads.

    Attributes:
        tokenizer: Directory of the model's `tokenizer.json`, and of its chat template where it has one.
        weights: What tells the weights' contents apart, for the cache of statistics; None keeps none.
    """

    tokenizer: Path
    weights: tuple[str, ...] | None = None


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
    measured, record = _measured(plan, model, weight_base, config, progress)
    weights = weight_scales(plan, model, progress, search_rows=config.method == "mse")
    layers = dict(plan.layers)
    for scales in (measured.scales, weights):
        layers |= {key: _completed(layers[key], scales[key]) for key in scales}
    return replace(plan, layers=layers, calibration={**plan.calibration, "method": config.method, **record})


def _measured(
    plan: PrecisionPlan, model: ir.Model, weight_base: Path, config: CalibrationConfig, progress: Progress
) -> tuple[ActivationScales, dict[str, str | int | float]]:
    """Activation scales and what they were measured on; a plan of weights alone reads no text."""
    if not any(operator_of_layer(layer).missing_input_scales(layer) for layer in plan.layers.values()):
        return ActivationScales(scales={}), {}
    chunks = chunks_of_text(model, config)
    cache = StatisticsCache(model, config.weights)
    measured = activation_scales(plan, model, weight_base, chunks, config, cache, progress)
    if measured.rare:
        progress(rare_experts_line(measured.rare), 1, 1)
    return measured, {
        **({"percentile": config.percentile} if config.method == "percentile" else {}),
        **record_of_text(config, chunks),
        **{f"experts with too few tokens in {item.layer}": str(item) for item in measured.rare},
    }


def record_of_text(config: CalibrationConfig, chunks: TokenChunks) -> dict[str, str | int]:
    """What a plan says of the text that was read for it."""
    return {
        "tokens": sum(map(len, chunks)),
        "text": "package" if config.text is None else config.text.name,
        "text_sha256": sha256_of_file(config.text or CALIBRATION),
    }


def chunks_of_text(model: ir.Model, config: CalibrationConfig) -> TokenChunks:
    """The tokens that a calibration reads.

    Raises:
        R1TrtError: The text or the tokenizer cannot be used.
    """
    text = config.text or CALIBRATION
    tokenizer, vocab_size = tokenizer_from_dir(config.tokenizer), _vocab_size(model)
    encoded = (_beginning(document, config, tokenizer, vocab_size) for document in documents_from_file(text))
    try:
        return token_chunks(encoded, length=config.chunk, tokens=config.tokens)
    except (ConfigError, PlanError) as error:
        raise error.within(text) from error


def _beginning(
    document: Document, config: CalibrationConfig, tokenizer: TextTokenizer, vocab_size: int
) -> Sequence[int]:
    """Token ids of a document, of no more of a long text than the tokens can come from."""
    wanted = config.tokens + config.chunk
    characters = _CHARACTERS * wanted
    while len(document.text) > characters:
        beginning = document.text[:characters]
        # Tokens end where words do.
        text = next(iter(beginning.rsplit(maxsplit=1)), beginning)
        [ids] = encoded_documents([Document(text=text)], tokenizer, vocab_size=vocab_size)
        if len(ids) >= wanted:
            return ids
        characters *= 2
    [ids] = encoded_documents([document], tokenizer, vocab_size=vocab_size)
    return ids


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
