"""Precision plans that use every type that each kind of layer may have, in one graph."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.registry import operator_of_layer
from r1trt.precision.plan import PrecisionPlan


def choices_for(fp8: LayerPrecision) -> list[LayerPrecision]:
    """Every combination of types that the layer may be given, with the scales that its entry has."""
    operator = operator_of_layer(fp8)
    types = product(operator.types.input, operator.types.weight, operator.types.output)
    layers = [retyped(fp8, *kinds) for kinds in types]
    return [layer for layer in layers if not [*operator.problems(layer), *operator.missing_scales(layer)]]


def retyped(layer: LayerPrecision, input: object, weight: object, output: object) -> LayerPrecision:
    """The layer in other types; scales that they leave no use for go."""
    values: dict[str, Any] = {"input": input, "weight": weight, "output": output, "reason": "mixed"}
    if layer.shared_weight is not None:
        values["shared_weight"] = weight
    if input != "fp8_e4m3":
        values |= {"input_scale": None, "mid_scale": None}
    if weight != "fp8_e4m3":
        values |= {"weight_scale": None, "weight_axis": None, "down_scale": None}
    return replace(layer, **values)


def mixed_plan(fp8: PrecisionPlan, rotation: int = 0) -> PrecisionPlan:
    """Each kind of layer goes through its choices in graph order; `rotation` shifts where it starts."""
    at: Counter[str] = Counter()
    layers = {}
    for name, layer in fp8.layers.items():
        choices = choices_for(layer)
        layers[name] = choices[(at[layer.op] + rotation) % len(choices)]
        at[layer.op] += 1
    return replace(fp8, layers=layers)
