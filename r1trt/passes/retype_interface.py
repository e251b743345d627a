"""The KV cache enters and leaves the graph in the type that attention keeps it in; logits stay FLOAT."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.graph.edit import FLOAT, data_type, dims_of, planned_nodes
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.precision.plan import PrecisionPlan

_CACHE_INPUTS = tuple(HLA_ATTENTION.inputs.index(name) for name in ("key_cache", "value_cache"))


class RetypeInterfacePass(ir.passes.InPlacePass):
    """Cache inputs get the plan's type and a Cast to FLOAT behind them, cache outputs one in front."""

    def __init__(self, plan: PrecisionPlan) -> None:
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Retype the caches of the plan's attention layers; runs before RealizeAttentionPass."""
        modified = False
        for node, layer in planned_nodes(model, self._plan, HLA_ATTENTION.name):
            dtype = data_type(layer.input)
            if dtype == FLOAT:
                continue
            for index in _CACHE_INPUTS:
                cache = node.inputs[index] if index < len(node.inputs) else None
                if cache is not None and cache.is_graph_input():
                    _retype_input(model.graph, cache, dtype)
                    modified = True
            for output in node.outputs[1:]:
                _retype_output(model.graph, output, dtype)
        return ir.passes.PassResult(model, modified)


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, name: str) -> tuple[ir.Node, ir.Value]:
    result = ir.Value(name=f"{name}/out", type=ir.TensorType(dtype), shape=ir.Shape(dims_of(value)))
    return ir.node("Cast", [value], {"to": int(dtype)}, outputs=[result], name=name), result


def _retype_input(graph: ir.Graph, cache: ir.Value, dtype: ir.DataType) -> None:
    users = list(cache.uses())
    cast, result = _cast(graph, cache, FLOAT, f"{cache.name}/CastInput")
    for user, index in users:
        user.replace_input_with(index, result)
    cache.type = ir.TensorType(dtype)
    graph.insert_before(graph[0], cast)


def _retype_output(graph: ir.Graph, cache: ir.Value, dtype: ir.DataType) -> None:
    if not cache.is_graph_output():
        return
    node = cache.producer()
    assert node is not None
    name = str(cache.name)
    cast, result = _cast(graph, cache, dtype, f"{name}/CastOutput")
    cache.name, result.name = f"{name}/float", name
    for index, value in enumerate(graph.outputs):
        if value is cache:
            graph.outputs[index] = result
    graph.insert_after(node, cast)
