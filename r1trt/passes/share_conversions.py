"""Share equal conversions: one Cast, one quantization of a value that several layers read."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from r1trt.graph.edit import replace_value

_CONVERSIONS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})


class ShareConversionsPass(ir.passes.InPlacePass):
    """Merge conversions of the same value with the same scale; the first layer that needs one keeps its name.

    TensorRT merges q, k and v (gate and up) into one FP8 product only where they read one quantized value.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """One sweep in topological order: a shared quantization makes its dequantizations equal too."""
        first: dict[Hashable, ir.Value] = {}
        modified = False
        for node in list(model.graph):
            if node.op_type not in _CONVERSIONS or node.domain != "" or node.outputs[0].is_graph_output():
                continue
            kept = first.setdefault(_key(node), node.outputs[0])
            if kept is not node.outputs[0]:
                replace_value(node.outputs[0], kept)
                model.graph.remove(node, safe=True)
                modified = True
        return ir.passes.PassResult(model, modified)


def _key(node: ir.Node) -> Hashable:
    attributes = tuple(sorted((name, attr.value) for name, attr in node.attributes.items()))
    parameters = tuple(None if value is None else _identity(value) for value in node.inputs[1:])
    return node.op_type, id(node.inputs[0]), parameters, attributes


def _identity(value: ir.Value) -> Hashable:
    """Scales are equal where their numbers are; anything else only where it is the same value."""
    tensor = value.const_value
    if tensor is None or tensor.size != 1:
        return id(value)
    return tensor.dtype, tuple(tensor.shape), tensor.tobytes()
