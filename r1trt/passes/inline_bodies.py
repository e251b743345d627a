"""Bodies into the graph: TensorRT's parser takes no call of a function that leaves an optional input out.

Each inlined node is called "<call's name>/<node>", so every layer of the network still tells which layer of
the precision plan it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass

from r1trt.graph.functions import function_label
from r1trt.lowerings.bodies import LoweringBackend, computes
from r1trt.ops.operator import DOMAIN
from r1trt.ops.registry import operator_of


class InlineBodiesPass(ir.passes.InPlacePass):
    """Inline the local functions that the graph calls.

    Args:
        keep: Operators whose types this backend's bodies take stay calls.
        inline: Names of operators whose calls do not stay even so.
    """

    def __init__(self, keep: LoweringBackend | None = None, inline: Collection[str] = ()) -> None:
        super().__init__()
        self._keep, self._inline = keep, inline

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Give each call a copy of its body, named after the call, and inline the copies."""
        own = name_bodies(model, self._keeps)
        InlinePass(lambda function: function.identifier() in own)(model)
        if not model.functions and not any(node.domain == DOMAIN for node in model.graph):
            model.graph.opset_imports.pop(DOMAIN, None)
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, bool(own))

    def _keeps(self, node: ir.Node) -> bool:
        if self._keep is None or node.op_type in self._inline:
            return False
        return operator_of(node) is not None and computes(self._keep, node)


def name_bodies(
    model: ir.Model, keeps: Callable[[ir.Node], bool] = lambda node: False
) -> frozenset[ir.OperatorIdentifier]:
    """Gives each call of the main graph a copy of its body, whose nodes are named after the call.

    Args:
        model: The graph, which is changed; bodies that nothing calls any more go.
        keeps: Whether a call goes on sharing its body.

    Returns:
        What the copies are called by.
    """
    shared = set()
    own: dict[ir.OperatorIdentifier, ir.Function] = {}
    for node in model.graph:
        body = model.functions.get(node.op_identifier())
        if body is None:
            continue
        if keeps(node):
            shared.add(body.identifier())
            continue
        copy = _renamed(body.clone(), str(node.name))
        node.overload = copy.overload = str(node.name)
        own[copy.identifier()] = copy
    for identifier in [key for key in model.functions if key not in shared]:
        del model.functions[identifier]
    model.functions.update(own)
    return frozenset(own)


def _renamed(body: ir.Function, call: str) -> ir.Function:
    prefix = f"{function_label(body)}/"
    for node in body.all_nodes():
        node.name = f"{call}/{str(node.name).removeprefix(prefix)}"
        for index, output in enumerate(node.outputs):
            output.name = f"{node.name}/out" if index == 0 else f"{node.name}/out.{index}"
    return body
