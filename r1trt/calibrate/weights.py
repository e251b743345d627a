"""Scales of quantized weights: the largest magnitudes of the checkpoint itself, or a search of each row's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from r1trt.graph.block_scaled import BlockScaledTensor
from r1trt.graph.codes import CODE_TYPES, CodeType
from r1trt.graph.quantize import WeightSource, WeightTensor, require_finite, weight_amax
from r1trt.graph.weight_grid import CODES, Floats, Grid
from r1trt.graph.weights import weight_source_from_value
from r1trt.ops.layer_precision import INT8, LayerPrecision
from r1trt.ops.operator import ScaledWeight
from r1trt.ops.registry import operator_of_layer
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.scales_file import short_float
from r1trt.progress import Progress


def weight_scales(
    plan: PrecisionPlan, model: ir.Model, progress: Progress, *, search_rows: bool = False
) -> dict[str, dict[str, Any]]:
    """Measure the weights of the layers that lack a scale of theirs.

    Args:
        plan: Says which layers, and whether a row of a weight has a scale of its own.
        model: The graph that the plan is for.
        progress: Called with ("measuring weights", layers done, layers).
        search_rows: Whether scales of rows are those of the smallest squared error.

    Returns:
        `LayerPrecision`'s scales, by plan key.
    """
    nodes = layer_nodes(model)
    by_row = plan.calibration.get("weight_scaling") == "channel"
    quantized = [
        name for name, layer in plan.layers.items() if operator_of_layer(layer).missing_weight_scales(layer)
    ]
    found: dict[str, dict[str, Any]] = {}
    for done, name in enumerate(quantized):
        progress("measuring weights", done, len(quantized))
        layer = plan.layers[name]
        weights = operator_of_layer(layer).scaled_weights(nodes[name], by_row=by_row or _needs_rows(layer))
        found[name] = _measured(weights, CODE_TYPES[str(layer.weight)], search_rows=search_rows)
    progress("measuring weights", len(quantized), len(quantized))
    return found


def _needs_rows(layer: LayerPrecision) -> bool:
    """INT8 weights that meet wide activations have one scale a row: no builder takes others."""
    return layer.weight == INT8 and not layer.quantizes_input


def _measured(
    weights: dict[str, list[ScaledWeight]], codes: CodeType, *, search_rows: bool
) -> dict[str, Any]:
    """The lists of scales; a list of one number that runs along no axis is a number."""
    found: dict[str, Any] = {"weight_axis": None}
    changed = whole = 0.0
    for name, parts in weights.items():
        by_part = [_scales(part, codes, search_rows=search_rows) for part in parts]
        scales = tuple(scale for part in by_part for scale in part)
        for part, own in zip(parts, by_part, strict=True):
            squares = _squares(part, own, codes)
            changed, whole = changed + squares[0], whole + squares[1]
        if any(part.axis is not None for part in parts):
            found |= {name: scales, "weight_axis": 0}
        else:
            found[name] = scales[0]
    if whole:
        found["weight_error"] = short_float(np.float32(math.sqrt(changed / whole)))
    return found


def _squares(weight: ScaledWeight, scales: tuple[float, ...], codes: CodeType) -> tuple[float, float]:
    """Of the checkpoint's own FP8 weights: what quantizing them again changes, and how large they are."""
    source = weight_source_from_value(weight.value, weight.block_scales)
    if not any(isinstance(part, BlockScaledTensor) for part in source.parts):
        return 0.0, 0.0
    scale = scales[0] if weight.axis is None else scales
    return WeightTensor(source, codes.dtype, name=source.name, scale=scale).squares()


def _scales(weight: ScaledWeight, codes: CodeType, *, search_rows: bool) -> tuple[float, ...]:
    source = weight_source_from_value(weight.value, weight.block_scales)
    if search_rows and weight.axis is not None and source.rows_per_index == 1:
        scales = _searched_row_scales(source, codes)
    else:
        scales = codes.scale(weight_amax(source, weight.axis)).reshape(-1)
    return tuple(short_float(scale) for scale in scales)


def _searched_row_scales(source: WeightSource, codes: CodeType) -> Floats:
    """Of each row the scale [N] of the smallest squared error."""
    grid = Grid(code=next(code for code in CODES if code == codes.name), scaling="channel")
    counts_alike_K = np.ones(source.shape[1], np.float32)
    found = []
    for chunk_RK in source.chunks():
        values_RK = chunk_RK.astype(np.float32)
        require_finite(values_RK, source.name)
        found.append(grid.searched_scales(values_RK, counts_alike_K)[:, 0])
    return np.concatenate(found)
