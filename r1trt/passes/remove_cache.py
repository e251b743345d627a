"""Turn an exported graph into a scoring graph: no KV cache, the logits of whole prompts."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from r1trt.errors import ExportError
from r1trt.graph.edit import register
from r1trt.ops.operator import Operator
from r1trt.ops.registry import operator_of


class RemoveCachePass(ir.passes.InPlacePass):
    """Caches and `past_len` go: nothing lies in front of a call's tokens. Bodies have to be set again."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises ExportError where the graph lacks one of its interface's inputs."""
        graph = model.graph
        inputs = {str(value.name): value for value in graph.inputs}
        missing = [name for name in ("past_len", "seq_len") if name not in inputs]
        if missing:
            raise ExportError(
                "The graph lacks inputs.", where=graph.name, found=sorted(inputs), expected=missing
            )
        for node in list(graph):
            operator = operator_of(node)
            if operator is not None and operator.caches:
                _detach_caches(graph, node, operator)
        _replace_past_len(graph, inputs["past_len"], inputs["seq_len"])
        return ir.passes.PassResult(model, True)


def _detach_caches(graph: ir.Graph, node: ir.Node, operator: Operator[Any]) -> None:
    for cache, given, made in operator.cache_values(node):
        for value, side in ((given, graph.inputs), (made, graph.outputs)):
            if value in side:
                side.remove(value)
        operator.set_input(node, cache.input, None)
    # An operator's caches are its last outputs.
    node.resize_outputs(len(operator.outputs) - len(operator.caches))


def _replace_past_len(graph: ir.Graph, past_len: ir.Value, seq_len: ir.Value) -> None:
    # 0 * seq_len has the batch's shape without an operator that builders treat as data-dependent.
    zero = register(graph, ir.tensor([0], dtype=ir.DataType.INT64, name="past_len/zero"))
    result = ir.Value(name="past_len/zeros", type=ir.TensorType(ir.DataType.INT64), shape=past_len.shape)
    node = ir.node("Mul", [seq_len, zero], outputs=[result], name="past_len")
    past_len.replace_all_uses_with(result)
    graph.insert_before(graph[0], node)
    graph.inputs.remove(past_len)
