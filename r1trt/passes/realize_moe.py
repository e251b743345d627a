"""R1DynamicMoE stays a node: activations and weights take the plan's types, FP8 scales become its inputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from r1trt.errors import PlanError
from r1trt.graph.edit import (
    FLOAT,
    Emitter,
    cast_input,
    data_type,
    planned_nodes,
    required,
    retype_outputs,
    static_dims,
)
from r1trt.graph.weights import typed_weight
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.precision.plan import LayerPrecision, PrecisionPlan, Scale

_AT = {name: index for index, name in enumerate(DYNAMIC_MOE.inputs)}


class RealizeMoePass(ir.passes.InPlacePass):
    """Stacked experts become one weight each; the router's weights are FP32."""

    def __init__(self, plan: PrecisionPlan) -> None:
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Retype every mixture of experts that the plan names."""
        modified = False
        for node, layer in planned_nodes(model, self._plan, DYNAMIC_MOE.name):
            _realize(node, layer)
            modified = True
        return ir.passes.PassResult(model, modified)


def _realize(node: ir.Node, layer: LayerPrecision) -> None:
    key, act = str(node.name), data_type(layer.output)
    emit = Emitter(node, key)
    cast_input(emit, node, _AT["x"], act)
    experts = data_type(layer.weight)
    shared = act if layer.shared_weight is None else data_type(layer.shared_weight)
    types = {
        "w_router": FLOAT,
        "router_bias": FLOAT,
        "w_gate_up": experts,
        "w_down": experts,
        "shared_gate_up": shared,
        "shared_down": shared,
    }
    scales = _weight_scales(node, layer)
    for name, dtype in types.items():
        value = node.inputs[_AT[name]] if _AT[name] < len(node.inputs) else None
        if value is not None:
            scale = scales.get(name)
            node.replace_input_with(_AT[name], typed_weight(emit.graph, value, dtype, scale))
    if layer.quantizes_weight:
        _add_scales(emit, node, layer)
    retype_outputs(node, key, act)


def _weight_scales(node: ir.Node, layer: LayerPrecision) -> dict[str, Scale]:
    """The plan's lists hold a scale an expert, and the shared expert's behind them."""
    if not layer.quantizes_weight:
        return {}
    experts = static_dims(required(node, _AT["w_down"]))[0]
    expected = experts + (layer.shared_weight is not None)
    scales: dict[str, Scale] = {}
    for weight, name in (("gate_up", "weight_scale"), ("down", "down_scale")):
        found = getattr(layer, name)
        if not isinstance(found, tuple) or len(found) != expected:
            raise PlanError(
                f"{name} of R1DynamicMoE has a wrong length.",
                where=node.name,
                found=len(found) if isinstance(found, tuple) else "one number",
                expected=f"{expected}: one an expert, and one for the shared expert where there is one",
            )
        scales[f"w_{weight}"] = found[:experts]
        scales[f"shared_{weight}"] = found[-1]
    return scales


def _add_scales(emit: Emitter, node: ir.Node, layer: LayerPrecision) -> None:
    node.resize_inputs(len(DYNAMIC_MOE.inputs))
    scales = {
        "x_scale": layer.input_scale,
        "gate_up_scale": layer.weight_scale,
        "mid_scale": layer.mid_scale,
        "down_scale": layer.down_scale,
    }
    for name, scale in scales.items():
        node.replace_input_with(_AT[name], emit.constant(name, np.asarray(scale, np.float32)))
