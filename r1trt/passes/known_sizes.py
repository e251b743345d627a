"""Sizes that are known become constants, and those of the graph's inputs are asked once a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.graph.edit import register

_INT64 = ir.DataType.INT64


class KnownSizesPass(ir.passes.InPlacePass):
    """Shape of one axis of a value whose shape the graph states: a number, or B or S of an input.

    Layers that ask it of values of their own would each compute positions and masks of their own.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Values in the bodies of If and Loop are looked at too: what they get lies outside of them."""
        sizes = _Sizes(model.graph)
        modified = False
        for node in list(model.graph.all_nodes()):
            known = sizes.of(node)
            if known is not None:
                node.outputs[0].replace_all_uses_with(known)
                modified = True
        if modified:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


class _Sizes:
    """Known sizes as INT64 [1], each made when it is first asked for."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._values: dict[int | str, ir.Value] = {}
        self._sources: dict[str, tuple[ir.Value, int]] = {}
        for value in graph.inputs:
            for axis, size in enumerate(value.shape or ()):
                if isinstance(size, ir.SymbolicDim) and size.value is not None:
                    self._sources.setdefault(str(size.value), (value, axis))

    def of(self, node: ir.Node) -> ir.Value | None:
        """The result of a Shape of one axis, where the shape tells it."""
        start, end = (node.attributes.get(name) for name in ("start", "end"))
        value = node.inputs[0] if node.op_type == "Shape" and node.domain == "" else None
        if value is None or value.shape is None or start is None or end is None:
            return None
        axis = start.as_int()
        if not 0 <= axis < len(value.shape) or end.as_int() != axis + 1 or node.outputs[0].is_graph_output():
            return None
        size = value.shape[axis]
        if isinstance(size, int):
            return self._once(size, self._number)
        name = str(size.value)
        known = self._sources.get(name)
        return None if known in (None, (value, axis)) else self._once(name, self._asked)

    def _once(self, size: int | str, make: Callable[[Any], ir.Value]) -> ir.Value:
        if size not in self._values:
            self._values[size] = make(size)
        return self._values[size]

    def _number(self, size: int) -> ir.Value:
        return register(self._graph, ir.tensor(np.asarray([size], np.int64), name=f"size.{size}"))

    def _asked(self, name: str) -> ir.Value:
        """In front of all other nodes."""
        value, axis = self._sources[name]
        output = ir.Value(name=f"size.{name}/out", type=ir.TensorType(_INT64), shape=ir.Shape([1]))
        attributes = {"start": axis, "end": axis + 1}
        made = ir.node("Shape", [value], attributes, outputs=[output], name=f"size.{name}")
        self._graph.insert_before(self._graph[0], made)
        return output
