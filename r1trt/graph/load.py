"""Reading a graph's file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from r1trt.errors import ExportError
from r1trt.graph.wire import graph_bytes
from r1trt.text import listing

_LISTED = 10


def model_from_onnx_file(path: Path) -> ir.Model:
    """Reads a graph without its external data.

    Raises:
        ExportError: The file is missing, too large for a graph, not ONNX, empty, or damaged.
    """
    if not path.is_file():
        raise ExportError("There is no such ONNX graph.", where=path)
    data = graph_bytes(path)
    try:
        model = ir.from_proto(onnx.ModelProto.FromString(data))
        ir.external_data.set_base_dir(model.graph, path.parent)
    except Exception as error:  # protobuf's and onnx-ir's error types vary with the damage
        raise ExportError("This is not a readable ONNX graph.", where=path, found=error) from error
    if not len(model.graph):
        raise ExportError("This ONNX graph has no nodes.", where=path)
    bodies = [function.graph for function in model.functions.values()]
    if problems := [problem for graph in (model.graph, *bodies) for problem in _problems(graph)]:
        raise ExportError(
            "This ONNX graph is damaged.",
            where=path,
            found=listing(problems, limit=_LISTED),
            fix="make it again, or copy it again from where it was made",
        )
    return model


def _problems(graph: ir.Graph) -> Iterator[str]:
    """What onnx-ir reads and nothing can work with: values out of nowhere, and tensors without a type."""
    given = set(graph.inputs) | set(graph.initializers.values())
    for node in graph:
        for value in node.inputs:
            if value is not None and value.producer() is None and value not in given:
                yield f"node '{node.name}' reads '{value.name}', which nothing makes"
    for value in graph.outputs:
        if value.producer() is None and value not in given:
            yield f"nothing makes the output '{value.name}'"
    for value in graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.UNDEFINED:
            yield f"tensor '{value.name}' has no type"
