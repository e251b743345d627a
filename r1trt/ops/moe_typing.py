"""How R1DynamicMoE is typed: experts in the plan's type, the router in FP32, scales as inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from r1trt.graph.block_scaled import JoinedScales
from r1trt.graph.edit import FLOAT, Emitter, data_type, register, retype_outputs, static_dims
from r1trt.graph.weights import Scale, block_scales_of, own_fp8_weight, scale_tensors, typed_weight
from r1trt.ops.expert_parts import ExpertPart
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.moe_blocks import realize_blocks
from r1trt.ops.signature import Signature

Parts = Sequence[ExpertPart]


def expected_scales(operator: Signature, node: ir.Node) -> int:
    """Length of a plan's lists of weight scales: one an expert, and the shared expert's behind them."""
    experts = static_dims(operator.required(node, "w_router"))[0]
    return experts + (operator.input(node, "shared_down") is not None)


def realize_moe(operator: Signature, node: ir.Node, layer: LayerPrecision, parts: Parts) -> None:
    """Retype a node that stays; each part of the stacked experts becomes one weight."""
    key, act = str(node.name), data_type(layer.output)
    emit, fp8_scales = Emitter(node, key), _block_scales(operator, node, parts)
    operator.cast_input(emit, node, "x", act)
    for name in ("w_router", "router_bias"):
        value = operator.input(node, name)
        if value is not None:
            operator.set_input(node, name, typed_weight(emit.graph, value, FLOAT))
    node.attributes["weight_only"] = ir.AttrInt64(
        "weight_only", int(layer.own_scales and not layer.quantizes_input)
    )
    if layer.block_size is not None:
        realize_blocks(operator, emit, node, layer, parts, fp8_scales)
    elif layer.own_scales:
        _keep_own_weights(operator, emit, node, parts, fp8_scales)
    else:
        _type_weights(operator, emit, node, layer, parts, fp8_scales)
    retype_outputs(node, key, act)


def _type_weights(
    operator: Signature,
    emit: Emitter,
    node: ir.Node,
    layer: LayerPrecision,
    parts: Parts,
    fp8_scales: dict[str, ir.Value],
) -> None:
    """The experts in the plan's type, FP8 with the plan's scales."""
    dtype, scales = data_type(layer.weight), _weight_scales(layer, parts)
    stacks = [part.input(name) for part in parts for name in ("w_gate_up", "w_down")]
    for name in (*stacks, "shared_gate_up", "shared_down"):
        value = operator.input(node, name)
        if value is not None:
            typed = typed_weight(emit.graph, value, dtype, scales.get(name), fp8_scales.get(name))
            operator.set_input(node, name, typed)
    if layer.quantizes_weight:
        _add_scales(operator, emit, node, layer, parts)


def _keep_own_weights(
    operator: Signature, emit: Emitter, node: ir.Node, parts: Parts, blocks: dict[str, ir.Value]
) -> None:
    """The checkpoint's FP8 elements and block scales; the shared expert's scales behind those of part 0."""
    for label in ("gate_up", "down"):
        shared = operator.input(node, f"shared_{label}")
        for part in parts:
            weight, scale = part.input(f"w_{label}"), part.input(f"{label}_scale")
            own = own_fp8_weight(emit.graph, operator.required(node, weight))
            behind = shared if part.index == 0 else None
            joined = _own_scales(emit, scale, blocks.pop(weight), behind)
            operator.set_input(node, weight, own)
            operator.set_input(node, scale, joined)
        if shared is not None:
            operator.set_input(node, f"shared_{label}", own_fp8_weight(emit.graph, shared))


def _own_scales(emit: Emitter, name: str, scales: ir.Value, shared: ir.Value | None) -> ir.Value:
    """FP32 [E, blocks of rows, blocks of columns], or with a shared expert all of them in one row."""
    tensors = [*scale_tensors(scales), *([] if shared is None else block_scales_of(shared))]
    shape = static_dims(scales)
    if shared is not None:
        shape = (sum(tensor.size for tensor in tensors),)
    return register(emit.graph, JoinedScales(tensors, shape, name=f"{emit.key}/{name}"))


def _block_scales(operator: Signature, node: ir.Node, parts: Parts) -> dict[str, ir.Value]:
    """Takes the block scales of an export's FP8 experts out of a node; returns them by weight."""
    found: dict[str, ir.Value] = {}
    for part in parts:
        for weight in ("gate_up", "down"):
            name = part.input(f"{weight}_scale")
            value = operator.input(node, name)
            if value is not None:
                found[part.input(f"w_{weight}")] = value
                operator.set_input(node, name, None)
    if len(parts) == 1:
        node.resize_inputs(min(len(node.inputs), operator.inputs.index("x_scale")))
    return found


def _weight_scales(layer: LayerPrecision, parts: Parts) -> dict[str, Scale]:
    """Scales by weight; the plan lists those of all experts, and the shared expert's behind them."""
    if not layer.quantizes_weight:
        return {}
    scales: dict[str, Scale] = {}
    for weight, found in (("gate_up", layer.weight_scale), ("down", layer.down_scale)):
        assert isinstance(found, tuple), "the plan was compared with the graph"
        scales |= {part.input(f"w_{weight}"): found[part.first : part.stop] for part in parts}
        scales[f"shared_{weight}"] = found[-1]
    return scales


def _add_scales(
    operator: Signature, emit: Emitter, node: ir.Node, layer: LayerPrecision, parts: Parts
) -> None:
    scales: dict[str, Scale | None] = {"x_scale": layer.input_scale, "mid_scale": layer.mid_scale}
    for name, found in (("gate_up_scale", layer.weight_scale), ("down_scale", layer.down_scale)):
        assert isinstance(found, tuple), "the plan was compared with the graph"
        for part in parts:
            shared = found[parts[-1].stop :] if part.index == 0 else ()
            scales[part.input(name)] = found[part.first : part.stop] + shared
    for name in operator.input_names(node):
        if name in scales:
            operator.set_input(node, name, emit.constant(name, np.asarray(scales[name], np.float32)))
