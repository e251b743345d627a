"""The KV cache enters and leaves the graph in the type that the plan keeps it in; logits stay FLOAT."""

from __future__ import annotations

import onnx_ir as ir

from r1trt.graph.edit import FLOAT, data_type, dims_of
from r1trt.passes.realize_layers import planned_layers
from r1trt.precision.plan import PrecisionPlan


class RetypeInterfacePass(ir.passes.InPlacePass):
    """Cache inputs get the plan's type and a Cast to FLOAT behind them, cache outputs one in front."""

    def __init__(self, plan: PrecisionPlan) -> None:
        self._plan = plan

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Retype the caches of the plan's layers; runs before they are realized."""
        modified = False
        for node, operator, layer in planned_layers(model, self._plan):
            dtype = data_type(layer.cache_type)
            for _, given, made in operator.cache_values(node):
                if dtype != FLOAT and given.is_graph_input():
                    _retype_input(model.graph, given, dtype)
                    _retype_output(model.graph, made, dtype)
                    modified = True
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
