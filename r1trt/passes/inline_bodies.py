"""Bodies into the graph: TensorRT's parser takes no call of a function that leaves an optional input out.

Each inlined node is called "<call's name>/<node>", so every layer of the network still tells which layer of
the precision plan it comes from.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass

from r1trt.graph.functions import function_label
from r1trt.ops.operator import DOMAIN


def inlined_model(model: ir.Model) -> ir.Model:
    """Copy a graph with every local function inlined; the initializers are shared with the original."""
    copy = model.clone()
    bodies = dict(copy.functions)
    for node in copy.graph:
        body = bodies.get(node.op_identifier())
        if body is None:
            continue
        own = _renamed(body.clone(), str(node.name))
        node.overload = own.overload = str(node.name)
        copy.functions[own.identifier()] = own
    for identifier in bodies:
        del copy.functions[identifier]
    inlined = InlinePass()(copy).model
    inlined.graph.opset_imports.pop(DOMAIN, None)
    return RemoveUnusedNodesPass()(inlined).model


def _renamed(body: ir.Function, call: str) -> ir.Function:
    prefix = f"{function_label(body)}/"
    for node in body.all_nodes():
        node.name = f"{call}/{str(node.name).removeprefix(prefix)}"
        for index, output in enumerate(node.outputs):
            output.name = f"{node.name}/out" if index == 0 else f"{node.name}/out.{index}"
    return body
