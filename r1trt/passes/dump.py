"""The graph behind every pass as a file of its own, for a graph viewer; weights are not written."""

from __future__ import annotations

import re
from pathlib import Path

import onnx_ir as ir

from r1trt.errors import BuildError

_INLINE_BYTES = 1024
_DUMPED = re.compile(r"[0-9]{2,}-[a-z0-9-]+\.onnx")
_LISTED = 5
# Stands where a weight's file would: viewers show type and shape, and nobody finds any bytes.
NO_WEIGHTS = "weights-are-not-dumped"


class GraphDump:
    """Writes `NN-<pass>.onnx` after each pass of one build, numbered in order.

    Args:
        directory: Where to; made where it is missing. The files of an earlier dump are removed.

    Raises:
        BuildError: The directory cannot be made, or holds something else.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _remove_earlier(directory)
        except OSError as error:
            raise BuildError(
                "The directory for the dumped graphs cannot be made or emptied.", where=directory, found=error
            ) from error
        self._directory, self._written = directory, 0

    def __call__(self, name: str, model: ir.Model) -> None:
        """Write the graph behind the pass `name`, a class's name."""
        label = re.sub(r"(?<!^)(?=[A-Z])", "-", name.removesuffix("Pass")).lower()
        ir.save(_without_weights(model), self._directory / f"{self._written:02d}-{label}.onnx")
        self._written += 1


def _remove_earlier(directory: Path) -> None:
    """Removes an earlier dump: a build with fewer passes would leave some of its files among the new ones."""
    entries = sorted(directory.iterdir())
    others = [path.name for path in entries if not (_DUMPED.fullmatch(path.name) and path.is_file())]
    if others:
        raise BuildError(
            "The directory for the dumped graphs holds something else.",
            where=directory,
            found=f"{', '.join(others[:_LISTED])}{', ...' if len(others) > _LISTED else ''}",
            expected="an empty or absent directory, or an earlier dump",
            fix="name another directory",
        )
    for path in entries:
        path.unlink()


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
