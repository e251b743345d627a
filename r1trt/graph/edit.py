"""Small edits that the passes share: every value made here has a name, a type and a shape.

While a graph is being typed, values between layers stay FLOAT: a pass casts to the plan's type on the way in
and back on the way out, so each pass leaves a valid graph; `cancel_casts` then removes what cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.errors import PlanError
from r1trt.precision.plan import DATA_TYPES, LayerPrecision, Precision, PrecisionPlan

FLOAT = ir.DataType.FLOAT
Dims = Sequence[int | str | ir.SymbolicDim | None]


def planned_nodes(
    model: ir.Model, plan: PrecisionPlan, *op_types: str
) -> Iterator[tuple[ir.Node, LayerPrecision]]:
    """The nodes of these types with their entries; safe against edits of the graph while it runs."""
    for node in [node for node in model.graph if node.op_type in op_types and node.name in plan.layers]:
        yield node, plan.layers[str(node.name)]


def data_type(precision: Precision | None) -> ir.DataType:
    """The ONNX type of a plan's type."""
    assert precision is not None, "the plan's own checks require this type"
    return DATA_TYPES[precision]


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


def required(node: ir.Node, index: int) -> ir.Value:
    """An input that must be there."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise PlanError(
            "A node lacks an input.", where=f"{node.op_type} '{node.name}'", found=f"input {index} absent"
        )
    return value


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
        replace_value(node.outputs[0], self.cast(result, FLOAT, "CastOutput"))
        self.graph.remove(node, safe=True)


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


def cast_input(emit: Emitter, node: ir.Node, index: int, dtype: ir.DataType) -> None:
    """Cast one input of a node that stays; absent inputs stay absent."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is not None:
        node.replace_input_with(index, emit.cast(value, dtype, f"CastInput_{index}"))


def retype_outputs(node: ir.Node, key: str, dtype: ir.DataType) -> None:
    """Give a node that stays outputs of the type `dtype`; its users go on seeing FLOAT."""
    if dtype == FLOAT:
        return
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    for index, output in enumerate(node.outputs):
        cast = ir.node("Cast", [output], {"to": int(FLOAT)}, name=f"{key}/CastOutput_{index}")
        result = cast.outputs[0]
        result.name, result.type, result.shape = f"{cast.name}/out", ir.TensorType(FLOAT), output.shape
        if output.is_graph_output():
            result.name, output.name = output.name, f"{key}/out_{index}"
        users = [(user, at) for user, at in output.uses() if user is not cast]
        for user, at in users:
            user.replace_input_with(at, result)
        for at, value in enumerate(graph.outputs):
            if value is output:
                graph.outputs[at] = result
        output.type = ir.TensorType(dtype)
        graph.insert_after(node, cast)
