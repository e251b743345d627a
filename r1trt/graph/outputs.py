"""Looking inside a graph: its file with further values as outputs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from r1trt.errors import ExportError
from r1trt.graph.wire import graph_bytes


def graph_with_outputs(path: Path, names: Iterable[str]) -> bytes:
    """A serialized graph whose outputs include these values of it.

    Args:
        path: An ONNX file; its external data stays where it is.
        names: FLOAT values of the main graph; those that are outputs already stay as they are.

    Raises:
        ExportError: The file is missing or damaged.
    """
    model = onnx_from_file(path)
    existing = {value.name for value in model.graph.output}
    for name in names:
        if name not in existing:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def onnx_from_file(path: Path) -> onnx.ModelProto:
    """Read a graph without its external data.

    Raises:
        ExportError: The file is missing or damaged.
    """
    if not path.is_file():
        raise ExportError("There is no such graph.", where=path, fix="export or build again")
    data = graph_bytes(path)
    try:
        return onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's own error types vary with its implementation
        raise ExportError(
            "The graph cannot be read.", where=path, found=error, fix="build it again"
        ) from error
