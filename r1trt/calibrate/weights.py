"""Scales of FP8 weights: the largest magnitudes of the checkpoint itself."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from r1trt.graph.quantize import scale_from_amax, weight_amax
from r1trt.graph.weights import weight_source_from_value
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan, Scale
from r1trt.precision.plan_file import short_float
from r1trt.precision.rules import WeightScaling
from r1trt.progress import Progress

_WEIGHT_SCALES = frozenset({"weight_scale", "down_scale"})


def weight_scales(plan: PrecisionPlan, model: ir.Model, progress: Progress) -> dict[str, dict[str, Any]]:
    """Measure the weights of the layers that lack a scale of theirs.

    Args:
        plan: Says which layers, and whether a row of a weight has a scale of its own.
        model: The graph that the plan is for.
        progress: Called with ("measuring weights", layers done, layers).

    Returns:
        `LayerPrecision`'s scales, by plan key.
    """
    nodes = layer_nodes(model)
    channel: WeightScaling = "channel" if plan.calibration.get("weight_scaling") == "channel" else "tensor"
    quantized = [name for name, layer in plan.layers.items() if _WEIGHT_SCALES & set(layer.missing_scales)]
    found: dict[str, dict[str, Any]] = {}
    for done, name in enumerate(quantized):
        progress("measuring weights", done, len(quantized))
        node = nodes[name]
        moe = node.op_type == DYNAMIC_MOE.name
        found[name] = _expert_scales(node) if moe else _linear_scales(node, channel)
    progress("measuring weights", len(quantized), len(quantized))
    return found


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
