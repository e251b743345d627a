"""The graph behind every pass as a file of its own, for a graph viewer; weights are not written."""

from __future__ import annotations

import re
from pathlib import Path

import onnx_ir as ir

from r1trt.errors import BuildError

_INLINE_BYTES = 1024
# Stands where a weight's file would: viewers show type and shape, and nobody finds any bytes.
NO_WEIGHTS = "weights-are-not-dumped"


class GraphDump:
    """Writes `NN-<pass>.onnx` after each pass of one build, numbered in order.

    Args:
        directory: Where to; made where it is missing.

    Raises:
        BuildError: The directory cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BuildError(
                "The directory for the dumped graphs cannot be made.", where=directory, found=error
            ) from error
        self._directory, self._written = directory, 0

    def __call__(self, name: str, model: ir.Model) -> None:
        """Write the graph behind the pass `name`, a class's name."""
        label = re.sub(r"(?<!^)(?=[A-Z])", "-", name.removesuffix("Pass")).lower()
        ir.save(_without_weights(model), self._directory / f"{self._written:02d}-{label}.onnx")
        self._written += 1


def _without_weights(model: ir.Model) -> ir.Model:
    copy = model.clone()
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and (isinstance(tensor, ir.ExternalTensor) or tensor.nbytes >= _INLINE_BYTES):
            value.const_value = ir.ExternalTensor(
                NO_WEIGHTS, 0, tensor.nbytes, tensor.dtype, shape=_static(tensor), name=name, base_dir=""
            )
    return copy


def _static(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape([int(size) for size in tensor.shape if isinstance(size, int)])
