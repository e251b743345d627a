"""Remove casts that cancel: BF16 -> FLOAT -> BF16 is exact, also around nodes that only move elements.

So is FP16 -> FLOAT -> FP16, which stands around caches alone, where nothing is moved.
"""

from __future__ import annotations

import onnx_ir as ir

from r1trt.graph.edit import FLOAT, dims_of, replace_value

BF16, FP16 = ir.DataType.BFLOAT16, ir.DataType.FLOAT16
# They move elements of input 0 and compute nothing, so a widening cast commutes with them; as with Concat,
# where all of its inputs have one.
_MOVES = frozenset(
    {"Reshape", "GatherND", "Gather", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity"}
)


class CancelCastsPass(ir.passes.InPlacePass):
    """Push widening casts behind moves, then drop each narrowing cast that gives back what was widened."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """One sweep in topological order settles it: casts only move towards nodes that come later."""
        modified = False
        for node in list(model.graph):
            if node.op_type in _MOVES and node.domain == "":
                modified |= _sink(model.graph, node, 1)
            elif node.op_type == "Concat" and node.domain == "":
                modified |= _sink(model.graph, node, len(node.inputs))
            elif node.op_type == "Cast":
                modified |= _cancel(model.graph, node)
        return ir.passes.PassResult(model, modified)


def _widened(value: ir.Value | None, *types: ir.DataType) -> ir.Value | None:
    """What a Cast to FLOAT was made of, if `value` is one of these types."""
    cast = None if value is None else value.producer()
    if cast is None or cast.op_type != "Cast" or cast.outputs[0].dtype != FLOAT:
        return None
    source = cast.inputs[0]
    return source if source is not None and source.dtype in types else None


def _sink(graph: ir.Graph, node: ir.Node, count: int) -> bool:
    """Move the widening casts in front of the first `count` inputs behind the node, if all have one."""
    sources = [_widened(value, BF16) for value in node.inputs[:count]]
    if not sources or None in sources:
        return False
    output = node.outputs[0]
    cast = ir.node("Cast", [output], {"to": int(FLOAT)}, name=f"{node.name}/CastOutput")
    result = cast.outputs[0]
    result.name, result.type, result.shape = (
        f"{cast.name}/out",
        ir.TensorType(FLOAT),
        ir.Shape(dims_of(output)),
    )
    for user, index in list(output.uses()):
        if user is not cast:
            user.replace_input_with(index, result)
    if output.is_graph_output():
        replace_value(output, result)
        cast.replace_input_with(0, output)
    for index, source in enumerate(sources):
        node.replace_input_with(index, source)
    output.type = ir.TensorType(BF16)
    graph.insert_after(node, cast)
    return True


def _cancel(graph: ir.Graph, node: ir.Node) -> bool:
    value, output = node.inputs[0], node.outputs[0]
    source = value if value is not None and value.dtype == output.dtype else _widened(value, BF16, FP16)
    if source is None or source.dtype != output.dtype:
        return False
    if output.is_graph_output() and (source.producer() is None or source.is_graph_output()):
        return False  # a graph output needs a node of its own
    replace_value(output, source)
    graph.remove(node, safe=True)
    return True
