"""The arithmetic of a typed graph for ONNX Runtime's CPU, which has few BF16 kernels.

BF16 values become FLOAT values that are rounded to BF16 where the typed graph rounds: behind each node that
computes. FP8 stays FP8. What a fused kernel does between two roundings is not known, and not simulated.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.ops.registry import operator_of

BF16, FLOAT = ir.DataType.BFLOAT16, ir.DataType.FLOAT

# Exact on numbers that BF16 holds: they move, choose or negate elements.
_EXACT_NAMES = """
Abs Clip Compress Concat Constant ConstantOfShape DepthToSpace Expand Flatten Gather GatherElements GatherND
Identity Max Min Neg Pad ReduceMax ReduceMin Relu Reshape ScatterElements ScatterND Shape Slice SpaceToDepth
Split Squeeze TensorScatter Tile TopK Transpose Unsqueeze Where
"""
_EXACT = frozenset(_EXACT_NAMES.split())


class SimulateBf16Pass(ir.passes.InPlacePass):
    """FLOAT in the place of BF16, rounded behind each node that computes; FP8 stays FP8.

    The initializers stay the typed graph's own, so both files can point into one weights file.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Needs a type on every value of the graph: InferTypesPass runs before."""
        narrow = {id(value) for value in _values(model.graph) if value.dtype == BF16}
        if narrow:
            _widen_sources(model.graph)
            for node in list(model.graph.all_nodes()):
                _retype(node, narrow)
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, bool(narrow))


def _values(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values()]
    return values + [output for node in graph.all_nodes() for output in node.outputs]


def _widen_sources(graph: ir.Graph) -> None:
    for value in graph.inputs:
        if value.dtype == BF16:
            value.type = ir.TensorType(FLOAT)
    for value in list(graph.initializers.values()):
        if value.dtype != BF16:
            continue
        # The experts' own body takes what it needs out of a stack, and widens that.
        users = [(user, index) for user, index in value.uses() if operator_of(user) is None]
        if not users:
            continue
        cast = _cast(value, FLOAT, f"{value.name}/float")
        for user, index in users:
            user.replace_input_with(index, cast.outputs[0])
        graph.insert_before(graph[0], cast)


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": int(dtype)}, name=name)
    output = cast.outputs[0]
    output.name, output.type, output.shape = f"{name}/out", ir.TensorType(dtype), value.shape
    return cast


def _retype(node: ir.Node, narrow: set[int]) -> None:
    outputs = [output for output in node.outputs if id(output) in narrow]
    for output in outputs:
        output.type = ir.TensorType(FLOAT)
    if node.op_type == "CastLike":
        _fix_cast_like(node, bool(outputs))
        return
    if node.op_type == "Cast" and outputs:
        node.attributes["to"] = ir.AttrInt64("to", int(FLOAT))
    elif node.op_type in ("Constant", "ConstantOfShape") and outputs:
        _widen_constant(node)
    if "output_dtype" in node.attributes and node.attributes["output_dtype"].as_int() == int(BF16):
        node.attributes["output_dtype"] = ir.AttrInt64("output_dtype", int(FLOAT))
    if node.op_type not in _EXACT or _reduces(node):
        for output in outputs:
            _round(node, output)


def _reduces(node: ir.Node) -> bool:
    """Whether a scatter adds or multiplies what it writes."""
    reduction = node.attributes.get("reduction")
    return reduction is not None and reduction.as_string() not in ("none", "max", "min")


def _fix_cast_like(node: ir.Node, to_narrow: bool) -> None:
    """The like-value's type may have changed, so the target becomes explicit."""
    dtype = FLOAT if to_narrow else node.outputs[0].dtype
    graph = node.graph
    assert graph is not None and dtype is not None
    cast = ir.node("Cast", [node.inputs[0]], {"to": int(dtype)}, name=node.name)
    node.outputs[0].replace_all_uses_with(cast.outputs[0], replace_graph_outputs=True)
    cast.outputs[0].name, node.outputs[0].name = node.outputs[0].name, f"{node.outputs[0].name}/replaced"
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(dtype), node.outputs[0].shape
    graph.insert_after(node, cast)
    graph.remove(node, safe=True)
    if to_narrow:
        _round(cast, cast.outputs[0])


def _widen_constant(node: ir.Node) -> None:
    attribute = node.attributes["value"]
    tensor = attribute.as_tensor()
    node.attributes["value"] = ir.AttrTensor("value", ir.tensor(tensor.numpy().astype(np.float32)))


def _round(node: ir.Node, output: ir.Value) -> None:
    """Round a FLOAT output to BF16 for everything that reads it."""
    graph = node.graph
    assert graph is not None
    users = list(output.uses())
    down = _cast(output, BF16, f"{output.name}/round")
    up = _cast(down.outputs[0], FLOAT, f"{output.name}/widen")
    rounded = up.outputs[0]
    # The rounded value takes the name: it is what the typed graph's value of that name holds.
    rounded.name, output.name = output.name, f"{output.name}/exact"
    for user, index in users:
        user.replace_input_with(index, rounded)
    for index, value in enumerate(graph.outputs):
        if value is output:
            graph.outputs[index] = rounded
    graph.insert_after(node, [down, up])
