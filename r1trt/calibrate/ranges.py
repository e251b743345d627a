"""Scales of quantized activations: ranges measured inside the exported graph while it reads text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.calibrate.text import TokenChunks
from r1trt.errors import PlanError
from r1trt.graph.codes import CODE_TYPES, FP8_CODES, INT8_CODES
from r1trt.lowerings.statistics import Statistic
from r1trt.ops.registry import operator_of_layer
from r1trt.passes.add_probes import Probe, probes_for
from r1trt.passes.pipeline import calibration_passes, run_passes
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.scales_file import short_float
from r1trt.progress import Progress
from r1trt.runtime.onnxruntime_model import LoadOptions, folds_constants
from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession
from r1trt.runtime.session import Session

CalibrationMethod = Literal["amax", "mse"]
CALIBRATION_METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)

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


def activation_scales(
    plan: PrecisionPlan,
    model: ir.Model,
    weight_base: Path,
    chunks: TokenChunks,
    method: CalibrationMethod,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """Run the graph on text, and find the activation scales that a plan lacks.

    Args:
        plan: Says which layers.
        model: Exported graph.
        weight_base: Directory that the graph's external weights are relative to.
        chunks: The text; each chunk starts with an empty cache.
        method: How a scale follows from what was measured.
        progress: Called with (phase, chunks done, chunks).

    Returns:
        `LayerPrecision`'s scales, by plan key; layers that read one value get one scale.

    Raises:
        PlanError: An activation is not finite.
    """
    missing = {
        key: operator_of_layer(layer).missing_input_scales(layer) for key, layer in plan.layers.items()
    }
    codes = {key: layer.input for key, layer in plan.layers.items() if layer.quantizes_input}
    probes = probes_for(model, missing, codes)
    if not probes:
        return {}
    runner = _Runner(model=model, weight_base=weight_base, probes=probes, chunks=chunks, progress=progress)
    scales = _searched(runner) if method == "mse" else _amax_scales(runner)
    found: dict[str, dict[str, float]] = {}
    for probe in probes:
        for key in probe.layers:
            found.setdefault(key, {})[probe.scale] = short_float(scales[probe.name])
    return found


def _amax_scales(runner: _Runner) -> dict[str, float]:
    amax = runner.run("measuring ranges", AMAX)
    kinds = {probe.name: CODE_TYPES[probe.codes] for probe in runner.probes}
    return {name: float(kinds[name].scale(numbers[0])) for name, numbers in amax.items()}


def _searched(runner: _Runner) -> dict[str, float]:
    """The candidate of the smallest squared error, by probe."""
    fractions = {probe.name: MSE_FRACTIONS[probe.codes] for probe in runner.probes}
    candidates = {
        name: [scale * part for part in fractions[name]] for name, scale in _amax_scales(runner).items()
    }
    some = replace(runner, chunks=_first_tokens(runner.chunks, _ERROR_TOKENS))
    errors = some.run("measuring errors", MSE, candidates)
    return {name: candidates[name][int(np.argmin(numbers))] for name, numbers in errors.items()}


def _first_tokens(chunks: TokenChunks, tokens: int) -> TokenChunks:
    """The first chunks, which come from different documents, up to `tokens` tokens."""
    starts = np.cumsum([0, *map(len, chunks)])[:-1]
    return [chunk for chunk, start in zip(chunks, starts, strict=True) if start < tokens]


@dataclass(frozen=True, kw_only=True)
class _Runner:
    """Runs a probed graph over all chunks and folds the statistics; holds one chunk at a time."""

    model: ir.Model
    weight_base: Path
    probes: Sequence[Probe]
    chunks: TokenChunks
    progress: Progress

    def run(
        self, phase: str, statistic: Statistic, scales: Mapping[str, Sequence[float]] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """Numbers of each probe over the whole text.

        Raises:
            PlanError: Some of them are not finite.
        """
        self.progress(phase, 0, len(self.chunks))
        fold = np.maximum if statistic.amax else np.add
        totals = {probe.name: np.zeros(statistic.size) for probe in self.probes}
        probed = run_passes(self.model, calibration_passes(self.probes, statistic, scales))
        with closing(self._session(probed)) as session:
            session.reset(1)
            for done, chunk in enumerate(self.chunks, start=1):
                lengths = np.array([len(chunk)], np.int64), np.zeros(1, np.int64)
                for name, values in session.run(chunk[None], *lengths).items():
                    totals[name] = fold(totals[name], values.astype(np.float64))
                self.progress(phase, done, len(self.chunks))
        bad = [name for name, numbers in totals.items() if not np.isfinite(numbers).all()]
        if bad:
            raise PlanError("Activations are not finite.", where=bad[0], found=f"{len(bad)} probes")
        return totals

    def _session(self, probed: ir.Model) -> Session:
        tensors = [value.const_value for value in probed.graph.initializers.values()]
        weight_bytes = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        return OnnxRuntimeSession(
            ir.to_proto(probed).SerializeToString(),
            weight_base=self.weight_base,
            outputs={probe.name: probe.name for probe in self.probes},
            options=LoadOptions(fold_constants=folds_constants(weight_bytes)),
        )
