"""Nodes of ONNX Runtime's own operators, which lie outside of ONNX's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from r1trt.graph.domain import MICROSOFT
from r1trt.graph.edit import FLOAT

Dims = Sequence[int | str | ir.SymbolicDim | None]


def contrib_node(
    anchor: ir.Node,
    op_type: str,
    name: str,
    inputs: Sequence[ir.Value | None],
    outputs: Sequence[Dims | None],
    attributes: Mapping[str, Any],
) -> list[ir.Value]:
    """Insert a node in front of `anchor`.

    Args:
        anchor: A node of the main graph.
        op_type: Of that domain.
        name: The node's; values are called after it.
        inputs: None where an optional one is left out.
        outputs: The shape of each, all of them FLOAT; None where an optional one is left out.
        attributes: The node's.

    Returns:
        A value for each output, those left out among them.
    """
    graph = anchor.graph
    assert isinstance(graph, ir.Graph)
    values = [
        _output(f"{name}/out.{index}" if index else f"{name}/out", at) for index, at in enumerate(outputs)
    ]
    made = ir.node(op_type, inputs, dict(attributes), domain=MICROSOFT, outputs=values, name=name)
    graph.insert_before(anchor, made)
    graph.opset_imports.setdefault(MICROSOFT, 1)
    return values


def _output(name: str, dims: Dims | None) -> ir.Value:
    if dims is None:
        return ir.Value(name="")
    return ir.Value(name=name, type=ir.TensorType(FLOAT), shape=ir.Shape(dims))
