"""Reading a graph's file."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from r1trt.errors import ExportError

# NOTES: protobuf's own limit; a larger file cannot be a graph.
_MAX_BYTES = (1 << 31) - 1


def model_from_onnx_file(path: Path) -> ir.Model:
    """Reads a graph without its external data.

    Raises:
        ExportError: The file is missing, too large for a graph, not ONNX, or empty.
    """
    if not path.is_file():
        raise ExportError("There is no such ONNX graph.", where=path)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ExportError(
            "This file is too large for an ONNX graph.", where=path, found=size, expected=_MAX_BYTES
        )
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf's and onnx-ir's error types vary with the damage
        raise ExportError("This is not a readable ONNX graph.", where=path, found=error) from error
    if not len(model.graph):
        raise ExportError("This ONNX graph has no nodes.", where=path)
    return model
