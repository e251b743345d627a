"""The rows of several weights, one after the other, as one tensor that is read while it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from r1trt.errors import PlanError
from r1trt.graph.edit import register
from r1trt.graph.quantize import Array, RowTensor, rows_of


class JoinedTensor(RowTensor):
    """Tensors of one type, and of one shape but for axis 0, along axis 0.

    Args:
        parts: In the order of the rows.
        name: Name of the whole.

    Raises:
        PlanError: They differ in more than their number of rows.
    """

    def __init__(self, parts: Sequence[ir.TensorProtocol], *, name: str) -> None:
        shapes = [_dims(part) for part in parts]
        if len({(part.dtype, shape[1:]) for part, shape in zip(parts, shapes, strict=True)}) != 1:
            raise PlanError(
                "Weights that are joined do not fit together.",
                where=name,
                found=[(str(part.dtype), shape) for part, shape in zip(parts, shapes, strict=True)],
                expected="one type, and one shape but for axis 0",
            )
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        super().__init__(parts[0].dtype, shape, name=name)
        self._parts = tuple(parts)

    def rows(self) -> Iterator[Array]:
        """Rows of the parts in order, some at a time, all axes but the last folded."""
        row_size = _dims(self)[-1] if len(_dims(self)) > 1 else 1
        for part in self._parts:
            yield from rows_of(part, row_size)


def join_rows(graph: ir.Graph, values: Sequence[ir.Value]) -> ir.Value:
    """An initializer with the rows of several, called after all of them.

    Raises:
        PlanError: They differ in more than their number of rows.
    """
    tensors = [value.const_value for value in values if value.const_value is not None]
    assert len(tensors) == len(values), "only initializers are joined"
    return register(graph, JoinedTensor(tensors, name="+".join(str(value.name) for value in values)))


def _dims(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape if isinstance(size, int))
