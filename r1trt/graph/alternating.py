"""Rows of gate and up in turns, as ONNX Runtime's operators for experts read them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from r1trt.graph.quantize import Array, RowTensor, rows_of


def alternating(chunks: Iterator[Array], count: int) -> Iterator[Array]:
    """Matrices of `count` rows, one by one: row 0 of both halves, row 1 of both, and so on."""
    waiting: list[Array] = []
    for chunk in chunks:
        waiting.append(chunk)
        while sum(map(len, waiting)) >= count:
            rows = np.concatenate(waiting)
            halves = rows[:count].reshape(2, count // 2, *rows.shape[1:])
            waiting = [rows[count:]]
            yield np.ascontiguousarray(np.swapaxes(halves, 0, 1)).reshape(rows[:count].shape)


class AlternatingTensor(RowTensor):
    """A stack [E,2F,D] with the rows of gate and up in turns, made while it is read.

    Args:
        stack: Gate rows first.
        name: Name of the result.
    """

    def __init__(self, stack: ir.TensorProtocol, *, name: str) -> None:
        super().__init__(stack.dtype, [int(size) for size in stack.shape if isinstance(size, int)], name=name)
        self.stack = stack

    def rows(self) -> Iterator[Array]:
        """Rows in order, those of an expert at a time."""
        _, count, columns = self._dims
        return alternating((chunk.reshape(-1, columns) for chunk in rows_of(self.stack, columns)), count)
