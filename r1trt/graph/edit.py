"""Small edits that the passes share: every value made here has a name, a type and a shape.

While a graph is being typed, values between layers stay FLOAT: a pass casts to the plan's type on the way in
and back on the way out, so each pass leaves a valid graph; `cancel_casts` then removes what cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.data_types import DATA_TYPES
from r1trt.errors import PlanError
from r1trt.graph.domain import MICROSOFT

FLOAT = ir.DataType.FLOAT
Dims = Sequence[int | str | ir.SymbolicDim | None]
# What stands behind a layer and gives its users FLOAT; `cancel_casts` takes it out where they want less.
CAST_OUTPUT = "CastOutput"


def data_type(name: str | None) -> ir.DataType:
    """The ONNX type of a plan's type."""
    assert name is not None, "the plan's own checks require this type"
    return ir.DataType(DATA_TYPES[name].onnx)


def dims_of(value: ir.Value) -> tuple[int | str | ir.SymbolicDim | None, ...]:
    """Shape of a value of the main graph.

    Raises:
        PlanError: It has none.
    """
    if value.shape is None:
        raise PlanError("A value has no shape.", where=value.name, fix="export the graph again")
    return tuple(value.shape)


def static_dims(value: ir.Value) -> tuple[int, ...]:
    """Shape of a weight."""
    return tuple(int(size) for size in dims_of(value) if isinstance(size, int))


class Emitter:
    """Makes nodes in front of `anchor`, named `<key>/<What>`."""

    def __init__(self, anchor: ir.Node, key: str) -> None:
        graph = anchor.graph
        assert isinstance(graph, ir.Graph)
        self.graph = graph
        self.key = key
        self._anchor = anchor

    def node(
        self,
        op_type: str,
        what: str,
        inputs: Sequence[ir.Value | None],
        dtype: ir.DataType,
        dims: Dims,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """Insert one node with one output."""
        name = f"{self.key}/{what}"
        output = ir.Value(name=f"{name}/out", type=ir.TensorType(dtype), shape=ir.Shape(dims))
        made = ir.node(op_type, inputs, dict(attributes or {}), outputs=[output], name=name)
        self.graph.insert_before(self._anchor, made)
        return output

    def contrib_node(
        self,
        op_type: str,
        what: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[Dims | None],
        attributes: Mapping[str, Any],
        dtype: ir.DataType = FLOAT,
    ) -> list[ir.Value]:
        """Insert a node of ONNX Runtime's own domain.

        Args:
            op_type: Of that domain.
            what: End of the node's name; values are called after it.
            inputs: None where an optional one is left out.
            outputs: The shape of each; None where an optional one is left out.
            attributes: The node's.
            dtype: Type of all outputs.

        Returns:
            A value for each output, those left out among them.
        """
        name = f"{self.key}/{what}"
        values = [
            _typed_output(f"{name}/out.{index}" if index else f"{name}/out", dims, dtype)
            for index, dims in enumerate(outputs)
        ]
        made = ir.node(op_type, inputs, dict(attributes), domain=MICROSOFT, outputs=values, name=name)
        self.graph.insert_before(self._anchor, made)
        self.graph.opset_imports.setdefault(MICROSOFT, 1)
        return values

    def cast(self, value: ir.Value, dtype: ir.DataType, what: str) -> ir.Value:
        """`value` in the type `dtype`; no node where it has it."""
        if value.dtype == dtype:
            return value
        return self.node("Cast", what, [value], dtype, dims_of(value), {"to": int(dtype)})

    def constant(self, what: str, array: NDArray[Any]) -> ir.Value:
        """A small initializer `<key>/<what>`."""
        return register(self.graph, ir.tensor(array, name=f"{self.key}/{what}"))

    def finish(self, node: ir.Node, result: ir.Value) -> None:
        """Replace a node of one output by `result`, cast back to FLOAT, and take the node out."""
        replace_value(node.outputs[0], self.cast(result, FLOAT, CAST_OUTPUT))
        self.graph.remove(node, safe=True)


def _typed_output(name: str, dims: Dims | None, dtype: ir.DataType) -> ir.Value:
    if dims is None:
        return ir.Value(name="")
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))


def register(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """Make `tensor` an initializer under its name; the one that is there if the name is taken."""
    name = str(tensor.name)
    existing = graph.initializers.get(name)
    if existing is not None:
        return existing
    dims = [int(size) for size in tensor.shape if isinstance(size, int)]
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(dims), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let `new` stand for `old` everywhere, graph outputs included, where it takes over the name."""
    if old.is_graph_output():
        new.name, old.name = old.name, f"{old.name}/replaced"
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def retype_outputs(
    node: ir.Node, key: str, dtype: ir.DataType, rounded_to: ir.DataType | None = None
) -> None:
    """Give a node that stays outputs of the type `dtype`, and round them; users go on seeing FLOAT."""
    for index in range(len(node.outputs)):
        retype_output(node, index, key, dtype, rounded_to)


def retype_output(
    node: ir.Node, index: int, key: str, dtype: ir.DataType, rounded_to: ir.DataType | None = None
) -> None:
    """The same for one of them."""
    graph, output, rounded_to = node.graph, node.outputs[index], rounded_to or dtype
    assert isinstance(graph, ir.Graph)
    if dtype == rounded_to == FLOAT:
        return
    users, result = list(output.uses()), output
    output.type = ir.TensorType(dtype)
    if rounded_to != dtype:
        result = _cast_behind(graph, result, rounded_to, f"{key}/CastResult_{index}")
    result = _cast_behind(graph, result, FLOAT, f"{key}/{CAST_OUTPUT}_{index}")
    if output.is_graph_output():
        result.name, output.name = output.name, f"{key}/out_{index}"
    for user, at in users:
        user.replace_input_with(at, result)
    for at, value in enumerate(graph.outputs):
        if value is output:
            graph.outputs[at] = result


def _cast_behind(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    cast, node = ir.node("Cast", [value], {"to": int(dtype)}, name=name), value.producer()
    assert node is not None
    result = cast.outputs[0]
    result.name, result.type, result.shape = f"{name}/out", ir.TensorType(dtype), value.shape
    graph.insert_after(node, cast)
    return result
