"""R1DynamicMoE with experts in INT8 or INT4 blocks: what a plan may ask for, how it is typed and read back.

ONNX Runtime alone multiplies by them (com.microsoft.QMoE), with activations that become INT8 as they come.

Legend: E experts, D hidden size, F expert width, Fs width of all shared experts together, G blocks of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from r1trt.errors import ExportError
from r1trt.graph.block_nodes import block_weight
from r1trt.graph.edit import Emitter
from r1trt.ops.cost import Cost, cost_of
from r1trt.ops.expert_parts import ExpertPart
from r1trt.ops.layer_precision import INT4, INT8, LayerPrecision
from r1trt.ops.moe_spec import SHARED_SCALES
from r1trt.ops.product import grid_of_layer, product_problems
from r1trt.ops.signature import Signature

_BYTE = 8


def asks_for_integers(layer: LayerPrecision) -> bool:
    """Whether a plan wants integers of a layer's experts, or anything in blocks."""
    return layer.block_size is not None or INT8 in (layer.input, layer.weight) or layer.weight == INT4


def block_problems(layer: LayerPrecision) -> Iterator[str]:
    """Integers come in blocks, meet INT8 activations, and the experts have no scales beside them."""
    if layer.block_size is None:
        yield "experts have int8 or int4 in blocks alone; block_size is missing"
        return
    yield from product_problems(layer)
    if layer.input == "fp32":
        yield "input is fp32; ONNX Runtime's experts in blocks take int8 activations, quantized as they come"
    given = [name for name in ("mid_scale", "down_scale") if getattr(layer, name) is not None]
    if given:
        yield f"{' and '.join(given)} stand beside block_size; no scales are listed with it"


def block_size_problems(layer: LayerPrecision, hidden: int, width: int) -> Iterator[str]:
    """Rows of the experts' weights, D and F long, are whole blocks."""
    for what, size in (("the hidden size", hidden), ("the experts' width", width)):
        if layer.block_size is not None and size % layer.block_size:
            yield f"{what} is {size}, no multiple of block_size, which is {layer.block_size}"


def realize_blocks(
    operator: Signature,
    emit: Emitter,
    node: ir.Node,
    layer: LayerPrecision,
    parts: Sequence[ExpertPart],
    fp8_scales: Mapping[str, ir.Value],
) -> None:
    """Weights become codes and their scales; the rows of gate and up take turns, as QMoE reads them.

    Args:
        operator: R1DynamicMoE.
        emit: In front of the node.
        node: Its node.
        layer: With blocks.
        parts: Of the experts.
        fp8_scales: Block scales of the checkpoint's own FP8, by the input that they belong to.
    """
    grid = grid_of_layer(layer)
    for part in parts:
        for label in ("gate_up", "down"):
            name = part.input(f"w_{label}")
            weight = operator.required(node, name)
            codes, scales = block_weight(
                emit.graph, weight, grid, fp8_scales.get(name), alternates=label == "gate_up"
            )
            operator.set_input(node, name, codes)
            operator.set_input(node, part.input(f"{label}_scale"), scales)
    for name, scale_name in zip(("shared_gate_up", "shared_down"), SHARED_SCALES, strict=True):
        shared = operator.input(node, name)
        if shared is not None:
            codes, scales = block_weight(emit.graph, shared, grid)
            operator.set_input(node, name, codes)
            operator.set_input(node, scale_name, scales)


def in_blocks(operator: Signature, node: ir.Node) -> bool:
    """Whether a node's experts are in INT8 or INT4 blocks: every row of a weight has scales of its own."""
    at = [operator.inputs.index(name) for name in ("w_gate_up", "gate_up_scale")]
    weight, scales = (node.inputs[index] if index < len(node.inputs) else None for index in at)
    if weight is None or scales is None or weight.shape is None or scales.shape is None:
        return False
    return len(scales.shape) == len(weight.shape) and scales.shape[1] == weight.shape[1]


def block_sizes(operator: Signature, node: ir.Node) -> dict[str, int]:
    """Sizes of a node in blocks, by their names in a spec.

    Raises:
        ExportError: A size is not static, or codes and scales are of different ones.
    """
    rows, packed = operator.sizes(node, "w_gate_up", 1, 2)
    hidden, (blocks,) = operator.sizes(node, "w_down", 1)[0], operator.sizes(node, "gate_up_scale", 2)
    found = {
        "hidden_size": hidden,
        "expert_width": rows // 2,
        "shared_width": 0,
        "bits": packed * _BYTE // hidden,
        "block_size": hidden // blocks,
    }
    if operator.input(node, "shared_gate_up") is not None:
        found["shared_width"] = operator.sizes(node, "shared_gate_up", 0)[0] // 2
    if found["bits"] not in (4, 8) or found["block_size"] * blocks != hidden:
        raise ExportError(
            f"Codes and scales of {operator.name} do not fit together.",
            where=f"node '{node.name}'",
            found=f"{packed} bytes and {blocks} scales for a row of {hidden}",
            fix="build again from the export",
        )
    return found


def scales_cost(layer: LayerPrecision, weights: int) -> Cost:
    """Reading the scales of as many weights."""
    scales = weights // layer.block_size if layer.block_size else 0
    return cost_of(macs=[], reads=[("fp32", scales)], writes=[])
