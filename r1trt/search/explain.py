"""Why a layer has its types: what each choice would cost, and the numbers of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r1trt.errors import ConfigError
from r1trt.export.io import ExportedModel
from r1trt.graph.codes import CODE_TYPES, CodeType
from r1trt.graph.quantize import WeightSource, WeightTensor
from r1trt.graph.weights import weight_source_from_value
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan_file import load_plan
from r1trt.search.run import PLAN_FILE, RESULT_FILE
from r1trt.strict_json import json_object_from_file


@dataclass(frozen=True, kw_only=True)
class WeightNumbers:
    """One weight as the checkpoint has it.

    Attributes:
        name: Its name.
        largest: Largest magnitude.
        outliers: The largest magnitude over the root mean square.
        errors: Relative error (root mean square) by type and scaling, as in "fp8_e4m3 by row".
    """

    name: str
    largest: float
    outliers: float
    errors: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A layer in a searched plan.

    Attributes:
        layer: Its name.
        planned: Its types, and why.
        group: The layers that it chose with.
        choices: By kind: KL divergence alone, its standard error, seconds and bytes of the group.
        input_range: Largest magnitude that its quantized input holds; None where it is not quantized.
        weights: Its weights' numbers; empty without the export.
    """

    layer: str
    planned: LayerPrecision
    group: str | None
    choices: Mapping[str, Mapping[str, float]]
    input_range: float | None
    weights: tuple[WeightNumbers, ...]


def explanation_of_layer(directory: Path, layer: str, export: ExportedModel | None = None) -> Explanation:
    """Explain one layer of a search's plan.

    Args:
        directory: What `r1trt precision search` wrote.
        layer: A key of the plan.
        export: The model, for the numbers of the weights.

    Raises:
        R1TrtError: The directory is no search's, or an older version's, or the plan has no such layer.
    """
    if not (directory / RESULT_FILE).is_file():
        raise ConfigError(
            "This directory holds no search.",
            where=directory,
            expected=RESULT_FILE,
            fix="name what `r1trt precision search` wrote",
        )
    plan = load_plan(directory / PLAN_FILE)
    found = json_object_from_file(directory / RESULT_FILE, error=ConfigError)
    groups = _groups(found, directory / RESULT_FILE)
    if layer not in plan.layers:
        ending = [name for name in plan.layers if name.endswith(layer)]
        raise ConfigError(
            "The plan has no such layer.",
            where=directory / PLAN_FILE,
            found=layer,
            expected=", ".join(ending[:3])
            or "a name as in the plan, such as model.layers.0.self_attn.q_proj",
        )
    planned = plan.layers[layer]
    group = next((name for name, layers in groups.items() if layer in layers), None)
    return Explanation(
        layer=layer,
        planned=planned,
        group=group,
        choices={} if group is None else _choices(found, group),
        input_range=_range(planned),
        weights=() if export is None else _weights(export, layer),
    )


def _groups(found: Mapping[str, Any], where: Path) -> Mapping[str, Any]:
    """Layers of each group. Raises ConfigError where the figures do not say."""
    groups = found.get("groups")
    if not isinstance(groups, dict) or not all(isinstance(layers, list) for layers in groups.values()):
        raise ConfigError(
            "The figures of the search do not say which layers chose together.",
            where=where,
            found="no groups" if groups is None else "groups that are no lists of layers",
            fix="search again: what was measured is known, if the cache is still there",
        )
    return groups


def _choices(found: Mapping[str, Any], group: str) -> dict[str, dict[str, float]]:
    damages = found.get("damages", {}).get(group, {})
    return {
        kind: {**damages.get(kind, {"kl": 0.0, "error": 0.0}), **cost}
        for kind, cost in found["costs"][group].items()
    }


def _weights(export: ExportedModel, layer: str) -> tuple[WeightNumbers, ...]:
    node = layer_nodes(export.model).get(layer)
    operator = None if node is None else layer_operator_of(node)
    if node is None or operator is None:
        raise ConfigError("The model has no such layer.", where=export.path, found=layer)
    parts = [part for some in operator.scaled_weights(node, by_row=True).values() for part in some]
    return tuple(_numbers(weight_source_from_value(part.value, part.block_scales)) for part in parts)


def _numbers(source: WeightSource) -> WeightNumbers:
    squares, largest, rows = 0.0, 0.0, []
    for chunk in source.chunks():
        values = np.abs(chunk.astype(np.float32))
        rows.append(values.max(axis=1))
        squares += float(np.square(values, dtype=np.float64).sum())
        largest = max(largest, float(values.max(initial=0.0)))
    by_index = np.concatenate(rows).reshape(source.shape[0], -1).max(axis=1)
    errors = {}
    for codes in CODE_TYPES.values():
        errors[codes.name] = _error(source, codes, float(codes.scale(largest)))
        errors[f"{codes.name} by row"] = _error(source, codes, codes.scale(by_index).tolist())
    return WeightNumbers(
        name=source.name,
        largest=largest,
        outliers=largest / math.sqrt(squares / math.prod(source.shape)) if squares else 0.0,
        errors=errors,
    )


def _error(source: WeightSource, codes: CodeType, scale: float | list[float]) -> float:
    changed, whole = WeightTensor(source, codes.dtype, name=source.name, scale=scale).squares()
    return math.sqrt(changed / whole) if whole else 0.0


def _range(layer: LayerPrecision) -> float | None:
    return None if layer.input_scale is None else CODE_TYPES[layer.input].largest * layer.input_scale
