"""Weights as ONNX Runtime wants them on the CPU: stored the way round that products read them."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.graph.quantize import WeightTensor
from r1trt.graph.weights import weight_source_from_value

_TRANSPOSED = [1, 0]


class PretransposeWeightsPass(ir.passes.InPlacePass):
    """Store weights that are only ever transposed the other way round, and drop the Transpose nodes.

    ONNX Runtime would do it at every load, and keep both copies while it does.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Transposes are lazy: the weights are read when they are written."""
        modified = False
        for node in list(model.graph):
            weight = _transposed_weight(node)
            if weight is not None:
                node.outputs[0].replace_all_uses_with(_stored(model.graph, weight))
                modified = True
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


def _transposed_weight(node: ir.Node) -> ir.Value | None:
    weight = node.inputs[0] if node.op_type == "Transpose" else None
    if weight is None or weight.const_value is None or len(weight.uses()) != 1:
        return None
    perm = node.attributes.get("perm")
    return weight if perm is not None and list(perm.as_ints()) == _TRANSPOSED else None


def _stored(graph: ir.Graph, weight: ir.Value) -> ir.Value:
    source = weight_source_from_value(weight)
    assert weight.const_value is not None
    dtype, name = weight.const_value.dtype, f"{weight.name}.transposed"
    tensor = WeightTensor(source, dtype, name=name, transposed=True)
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value
