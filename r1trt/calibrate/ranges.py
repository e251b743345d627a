"""Scales of quantized activations: ranges measured inside the exported graph while it reads text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from r1trt.calibrate.options import CalibrationOptions
from r1trt.calibrate.rare_experts import MARGIN, RareExperts, counting_probes, rare_experts
from r1trt.calibrate.runner import Runner
from r1trt.calibrate.statistics_cache import StatisticsCache
from r1trt.calibrate.text import TokenChunks
from r1trt.errors import PlanError
from r1trt.graph.codes import CODE_TYPES, FP8_CODES, INT8_CODES
from r1trt.lowerings.histogram import HISTOGRAM, magnitude_at
from r1trt.lowerings.statistics import Statistic
from r1trt.ops.registry import operator_of_layer
from r1trt.passes.add_probes import INPUT_SCALE, Probe, probes_for
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.scales_file import short_float
from r1trt.progress import Progress
from r1trt.text import listing

AMAX = Statistic(amax=True, size=1)
# Fractions of amax that the error search tries. E4M3 keeps its relative precision over 2^15, so a smaller
# scale helps only what lies below that, and clips the rest: a few candidates suffice. On a 135M Llama the
# search lowers the KL divergence of an FP8 model by 0.0016 +- 0.0006 of 0.0365 (7154 held-out tokens).
# INT8 has one step over its whole range, and clips outliers with profit.
MSE_FRACTIONS = {
    FP8_CODES.name: (1.0, 0.9, 0.8, 0.65, 0.5),
    INT8_CODES.name: (1.0, 0.8, 0.6, 0.4, 0.25),
}
# Errors are sums over all elements, which settle sooner than a maximum, and cost a quantization a candidate.
_ERROR_TOKENS = 2048
MSE = Statistic(amax=False, size=len(MSE_FRACTIONS[FP8_CODES.name]))


@dataclass(frozen=True, kw_only=True)
class ActivationScales:
    """What was found on a text.

    Attributes:
        scales: `LayerPrecision`'s scales, by plan key; layers that read one value get one scale.
        rare: Layers with experts that saw too few tokens.
    """

    scales: Mapping[str, Mapping[str, float]]
    rare: Sequence[RareExperts] = ()


def activation_scales(
    plan: PrecisionPlan,
    model: ir.Model,
    weight_base: Path,
    chunks: TokenChunks,
    options: CalibrationOptions,
    cache: StatisticsCache,
    progress: Progress,
) -> ActivationScales:
    """Run the graph on text, and find the activation scales that a plan lacks.

    Args:
        plan: Says which layers.
        model: Exported graph.
        weight_base: Directory that the graph's external weights are relative to.
        chunks: The text; each chunk starts with an empty cache.
        options: How a scale follows from what was measured.
        cache: What was measured before.
        progress: Called with (phase, chunks done, chunks).

    Raises:
        PlanError: Activations are not finite, or all zero.
    """
    missing = {
        key: operator_of_layer(layer).missing_input_scales(layer) for key, layer in plan.layers.items()
    }
    codes = {key: layer.input for key, layer in plan.layers.items() if layer.quantizes_input}
    probes = probes_for(model, missing, codes)
    if not probes:
        return ActivationScales(scales={})
    counts = counting_probes(model, probes)
    runner = Runner(
        model=model, weight_base=weight_base, probes=probes, chunks=chunks, cache=cache, progress=progress
    )
    numbers = replace(runner, probes=[*probes, *counts]).run("measuring ranges", AMAX)
    amax = {probe.name: float(numbers[probe.name][0]) for probe in probes}
    _require_activations(probes, amax)
    rare = rare_experts(counts, numbers)
    scales = _scales(runner, amax, options) | _safe_scales(probes, amax, rare)
    found: dict[str, dict[str, float]] = {}
    for probe in probes:
        for key in probe.layers:
            found.setdefault(key, {})[probe.scale] = short_float(scales[probe.name])
    return ActivationScales(scales=found, rare=rare)


def _require_activations(probes: Sequence[Probe], amax: Mapping[str, float]) -> None:
    zero = [f"{probe.scale} of {', '.join(probe.layers)}" for probe in probes if not amax[probe.name]]
    if zero:
        raise PlanError(
            "Activations are zero on the whole text: no scale follows from them.",
            found=listing(zero),
            fix="check the checkpoint's weights; if they are meant so, give these scales, or BF16, in a plan",
        )


def _scales(runner: Runner, amax: Mapping[str, float], options: CalibrationOptions) -> dict[str, float]:
    """By probe, as the method finds them."""
    if options.method == "percentile":
        given = {name: [largest] for name, largest in amax.items()}
        histograms = runner.run("measuring histograms", HISTOGRAM, given)
        magnitudes = {name: magnitude_at(histograms[name], amax[name], options.percentile) for name in amax}
        return _amax_scales(runner.probes, magnitudes)
    return _searched(runner, amax) if options.method == "mse" else _amax_scales(runner.probes, amax)


def _amax_scales(probes: Sequence[Probe], amax: Mapping[str, float]) -> dict[str, float]:
    return {probe.name: float(CODE_TYPES[probe.codes].scale(amax[probe.name])) for probe in probes}


def _safe_scales(
    probes: Sequence[Probe], amax: Mapping[str, float], rare: Sequence[RareExperts]
) -> dict[str, float]:
    """Of what is measured inside the layers with experts that saw too little."""
    layers = {item.layer for item in rare}
    inside = [probe for probe in probes if probe.scale != INPUT_SCALE and probe.layers[0] in layers]
    return _amax_scales(inside, {probe.name: amax[probe.name] * MARGIN for probe in inside})


def _searched(runner: Runner, amax: Mapping[str, float]) -> dict[str, float]:
    """The candidate of the smallest squared error, by probe."""
    fractions = {probe.name: MSE_FRACTIONS[probe.codes] for probe in runner.probes}
    candidates = {
        name: [scale * part for part in fractions[name]]
        for name, scale in _amax_scales(runner.probes, amax).items()
    }
    some = replace(runner, chunks=_first_tokens(runner.chunks, _ERROR_TOKENS))
    errors = some.run("measuring errors", MSE, candidates)
    return {name: candidates[name][int(np.argmin(numbers))] for name, numbers in errors.items()}


def _first_tokens(chunks: TokenChunks, tokens: int) -> TokenChunks:
    """The first chunks, which come from different documents, up to `tokens` tokens."""
    starts = np.cumsum([0, *map(len, chunks)])[:-1]
    return [chunk for chunk, start in zip(chunks, starts, strict=True) if start < tokens]
