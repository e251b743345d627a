"""Precision plans that use every type that each kind of layer may have, in one graph."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

from r1trt.errors import PlanError
from r1trt.precision.plan import PRECISIONS, LayerPrecision, PrecisionPlan


def choices_for(fp8: LayerPrecision) -> list[LayerPrecision]:
    """Every combination of types that the layer may be given, with the scales of its FP8 entry."""
    found = []
    for kinds in product(PRECISIONS, (None, *PRECISIONS), PRECISIONS):
        try:
            found.append(retyped(fp8, *kinds))
        except PlanError:
            continue
    return found


def retyped(layer: LayerPrecision, input: object, weight: object, output: object) -> LayerPrecision:
    """The layer in other types; scales that they leave no use for go. Raises PlanError as the plan does."""
    values = {"input": input, "weight": weight, "output": output, "reason": "mixed"}
    if layer.shared_weight is not None:
        values["shared_weight"] = weight
    if input != "fp8_e4m3":
        values |= {"input_scale": None, "mid_scale": None}
    if weight != "fp8_e4m3":
        values |= {"weight_scale": None, "weight_axis": None, "down_scale": None}
    return replace(layer, **values)  # type: ignore[arg-type]  # checked on construction


def mixed_plan(fp8: PrecisionPlan, rotation: int = 0) -> PrecisionPlan:
    """Each kind of layer goes through its choices in graph order; `rotation` shifts where it starts."""
    at: Counter[str] = Counter()
    layers = {}
    for name, layer in fp8.layers.items():
        choices = choices_for(layer)
        layers[name] = choices[(at[layer.op] + rotation) % len(choices)]
        at[layer.op] += 1
    return replace(fp8, layers=layers)
