"""Static FP8 scales: run the exported graph on text, measure ranges inside it, and complete the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.calibrate.text import TokenChunks, documents_from_file, token_chunks
from r1trt.errors import PlanError
from r1trt.graph.quantize import scale_from_amax, weight_amax
from r1trt.graph.weights import weight_source_from_value
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.passes.add_probes import Probe, Statistic, probed_model, probes_for
from r1trt.passes.remove_cache import model_without_cache
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import LayerPrecision, PrecisionPlan, Scale
from r1trt.precision.plan_file import short_float
from r1trt.precision.rules import WeightScaling

CalibrationMethod = Literal["amax", "mse"]
Progress = Callable[[str, int, int], None]

AMAX = Statistic(amax=True, size=1)
# Fractions of amax that the error search tries. E4M3 keeps its relative precision over 2^15, so a smaller
# scale helps only what lies below that, and clips the rest: few candidates tell. On a 135M Llama the search
# lowers the KL divergence of an FP8 model by 0.0016 +- 0.0006 of 0.0365 (7154 held-out tokens).
MSE_FRACTIONS = (1.0, 0.9, 0.8, 0.65, 0.5)
# Errors are sums over all elements, which settle sooner than a maximum, and cost a quantization a candidate.
_ERROR_TOKENS = 2048
MSE = Statistic(amax=False, size=len(MSE_FRACTIONS))

# Folding turns BF16 weights into FP32 when the session is made: faster calls, but twice the weights' memory.
_FOLD_BELOW_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Options of a calibration.

    Attributes:
        tokenizer: The checkpoint's `tokenizer.json`.
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
        if self.method not in ("amax", "mse"):
            raise PlanError("Unknown calibration method.", found=self.method, expected="amax | mse")
        if self.tokens < 1 or self.chunk < 1:
            raise PlanError(
                "Calibration needs tokens.", found=(self.tokens, self.chunk), expected="at least 1"
            )


def calibrated_plan(
    plan: PrecisionPlan,
    model: ir.Model,
    weight_base: Path,
    config: CalibrationConfig,
    progress: Progress | None = None,
) -> PrecisionPlan:
    """Complete a plan: activation scales from text, weight scales from the checkpoint; given scales stay.

    Args:
        plan: A plan for `model`; one that lacks no scale comes back as it is.
        model: Exported graph with `onnxruntime` bodies.
        weight_base: Directory that the graph's external weights are relative to.
        config: What to run, and how.
        progress: Called with (phase, done, total).

    Raises:
        PlanError: The text or the tokenizer cannot be used, or an activation is not finite.
    """
    if not plan.missing_scales:
        return plan
    report = progress or (lambda phase, done, total: None)
    documents = _documents(config.text)
    chunks = token_chunks(documents, config.tokenizer, length=config.chunk, tokens=config.tokens)
    scales = activation_scales(plan, model, weight_base, chunks, config.method, report)
    layers = _with_weight_scales(plan, model, report)
    for (key, name), scale in scales.items():
        layers[key] = _completed(layers[key], {name: scale})
    record: dict[str, str | int | float] = {
        **plan.calibration,
        "method": config.method,
        "tokens": sum(map(len, chunks)),
        "text": "package" if config.text is None else config.text.name,
        "text_sha256": hashlib.sha256("\0".join(documents).encode()).hexdigest(),
    }
    return replace(plan, layers=layers, calibration=record)


def _completed(layer: LayerPrecision, found: Mapping[str, Any]) -> LayerPrecision:
    """Fill what the layer lacks; a scale that someone set is theirs."""
    lacking = {name: found[name] for name in layer.missing_scales if name in found}
    if "weight_scale" in lacking:
        lacking["weight_axis"] = found["weight_axis"]
    return replace(layer, **lacking)


def _documents(text: Path | None) -> list[str]:
    if text is not None:
        return documents_from_file(text)
    from r1trt.data import calibration_text

    return calibration_text()


# ---------------------------------------------------------------- activations


def activation_scales(
    plan: PrecisionPlan,
    model: ir.Model,
    weight_base: Path,
    chunks: TokenChunks,
    method: CalibrationMethod,
    progress: Progress,
) -> dict[tuple[str, str], float]:
    """Scales by (plan key, "input_scale" or "mid_scale"); layers that read one value get one scale."""
    open_scales = ("input_scale", "mid_scale")
    quantized = [name for name, layer in plan.layers.items() if set(layer.missing_scales) & set(open_scales)]
    if not quantized:
        return {}
    scoring = model_without_cache(model)
    probes = probes_for(scoring, quantized)
    runner = _Runner(model=scoring, weight_base=weight_base, probes=probes, chunks=chunks, progress=progress)
    amax = runner.run("measuring ranges", AMAX)
    scales = {name: float(scale_from_amax(numbers[0])) for name, numbers in amax.items()}
    if method == "mse":
        candidates = {name: [scale * part for part in MSE_FRACTIONS] for name, scale in scales.items()}
        some = replace(runner, chunks=_first_tokens(chunks, _ERROR_TOKENS))
        errors = some.run("measuring errors", MSE, candidates)
        scales = {name: candidates[name][int(np.argmin(numbers))] for name, numbers in errors.items()}
    return {
        (key, "mid_scale" if probe.mid else "input_scale"): short_float(scales[probe.name])
        for probe in probes
        for key in probe.layers
    }


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
        self.progress(phase, 0, len(self.chunks))
        session = _session(probed_model(self.model, self.probes, statistic, scales), self.weight_base)
        fold = np.maximum if statistic.amax else np.add
        totals = {probe.name: np.zeros(statistic.size) for probe in self.probes}
        known = {item.name for item in session.get_inputs()}
        for done, chunk in enumerate(self.chunks, start=1):
            feeds = {"input_ids": chunk[None], "seq_len": np.array([len(chunk)], np.int64)}
            values = session.run(
                list(totals), {name: value for name, value in feeds.items() if name in known}
            )
            for name, value in zip(totals, values, strict=True):
                totals[name] = fold(totals[name], np.asarray(value, np.float64))
            self.progress(phase, done, len(self.chunks))
        bad = [name for name, numbers in totals.items() if not np.isfinite(numbers).all()]
        if bad:
            raise PlanError("Activations are not finite.", where=bad[0], found=f"{len(bad)} probes")
        return totals


def _session(model: ir.Model, weight_base: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weight_base))
    tensors = [value.const_value for value in model.graph.initializers.values()]
    folded = sum(tensor.nbytes for tensor in tensors if tensor is not None) < _FOLD_BELOW_BYTES
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=[] if folded else ["ConstantFolding"],
    )


# ---------------------------------------------------------------- weights


def _with_weight_scales(
    plan: PrecisionPlan, model: ir.Model, progress: Progress
) -> dict[str, LayerPrecision]:
    nodes, layers = layer_nodes(model), dict(plan.layers)
    channel: WeightScaling = "channel" if plan.calibration.get("weight_scaling") == "channel" else "tensor"
    open_scales = ("weight_scale", "down_scale")
    quantized = [name for name, layer in layers.items() if set(layer.missing_scales) & set(open_scales)]
    for done, name in enumerate(quantized):
        progress("measuring weights", done, len(quantized))
        node = nodes[name]
        moe = node.op_type == DYNAMIC_MOE.name
        found = _expert_scales(node) if moe else _linear_scales(node, channel)
        layers[name] = _completed(layers[name], found)
    progress("measuring weights", len(quantized), len(quantized))
    return layers


def _scales(value: ir.Value | None, axis: int | None) -> tuple[float, ...]:
    if value is None:
        return ()
    amax = weight_amax(weight_source_from_value(value), axis)
    return tuple(short_float(scale) for scale in scale_from_amax(amax).reshape(-1))


def _linear_scales(node: ir.Node, scaling: WeightScaling) -> dict[str, Any]:
    scale: Scale = _scales(node.inputs[1], 0)
    if scaling == "channel":
        return {"weight_scale": scale, "weight_axis": 0}
    return {"weight_scale": _scales(node.inputs[1], None)[0], "weight_axis": None}


def _expert_scales(node: ir.Node) -> dict[str, Any]:
    """One scale an expert, and the shared expert's behind them."""
    inputs = dict(zip(DYNAMIC_MOE.inputs, node.inputs, strict=False))
    gate_up = _scales(inputs["w_gate_up"], 0) + _scales(inputs.get("shared_gate_up"), None)
    down = _scales(inputs["w_down"], 0) + _scales(inputs.get("shared_down"), None)
    return {"weight_scale": gate_up, "weight_axis": 0, "down_scale": down}
