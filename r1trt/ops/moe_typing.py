"""How R1DynamicMoE is typed: experts in the plan's type, the router in FP32, FP8 scales as inputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from r1trt.graph.edit import FLOAT, Emitter, data_type, retype_outputs, static_dims
from r1trt.graph.weights import Scale, typed_weight
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.signature import Signature


def expected_scales(operator: Signature, node: ir.Node) -> int:
    """Length of a plan's lists of weight scales: one an expert, and the shared expert's behind them."""
    experts = static_dims(operator.required(node, "w_down"))[0]
    return experts + (operator.input(node, "shared_down") is not None)


def realize_moe(operator: Signature, node: ir.Node, layer: LayerPrecision) -> None:
    """Retype a node that stays; stacked experts become one weight each."""
    key, act, experts = str(node.name), data_type(layer.output), data_type(layer.weight)
    emit = Emitter(node, key)
    operator.cast_input(emit, node, "x", act)
    types = {
        "w_router": FLOAT,
        "router_bias": FLOAT,
        "w_gate_up": experts,
        "w_down": experts,
        "shared_gate_up": experts,
        "shared_down": experts,
    }
    scales, blocks = _weight_scales(operator, node, layer), _block_scales(operator, node)
    for name, dtype in types.items():
        value = operator.input(node, name)
        if value is not None:
            typed = typed_weight(emit.graph, value, dtype, scales.get(name), blocks.get(name))
            operator.set_input(node, name, typed)
    if layer.quantizes_weight:
        _add_scales(operator, emit, node, layer)
    retype_outputs(node, key, act)


def _block_scales(operator: Signature, node: ir.Node) -> dict[str, ir.Value]:
    """Takes the block scales of an export's FP8 experts out of a node; returns them by weight."""
    found: dict[str, ir.Value] = {}
    for weight in ("gate_up", "down"):
        value = operator.input(node, f"{weight}_scale")
        if value is not None:
            found[f"w_{weight}"] = value
    node.resize_inputs(min(len(node.inputs), operator.inputs.index("x_scale")))
    return found


def _weight_scales(operator: Signature, node: ir.Node, layer: LayerPrecision) -> dict[str, Scale]:
    if not layer.quantizes_weight:
        return {}
    experts = static_dims(operator.required(node, "w_down"))[0]
    scales: dict[str, Scale] = {}
    for weight, found in (("gate_up", layer.weight_scale), ("down", layer.down_scale)):
        assert isinstance(found, tuple), "the plan was compared with the graph"
        scales[f"w_{weight}"] = found[:experts]
        scales[f"shared_{weight}"] = found[-1]
    return scales


def _add_scales(operator: Signature, emit: Emitter, node: ir.Node, layer: LayerPrecision) -> None:
    scales = {
        "x_scale": layer.input_scale,
        "gate_up_scale": layer.weight_scale,
        "mid_scale": layer.mid_scale,
        "down_scale": layer.down_scale,
    }
    for name, scale in scales.items():
        operator.set_input(node, name, emit.constant(name, np.asarray(scale, np.float32)))
