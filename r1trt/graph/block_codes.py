"""Weights in INT8 or INT4 blocks along their rows, as com.microsoft.MatMulNBits reads them; streamed.

Legend: N rows, K columns, G blocks of a row (the last one padded), b block size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.errors import PlanError
from r1trt.graph.quantize import RowTensor, WeightSource

Array = NDArray[Any]
BLOCK_SIZES = (16, 32, 64, 128, 256)
"""What the operator takes (ONNX Runtime's ContribOperators.md, MatMulNBits)."""
_BYTE = 8
# Factors of the scale that maps a block's extreme to the lowest code; others round the rest closer.
_FACTORS: NDArray[np.float32] = np.linspace(0.8, 1.15, 15, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class BlockGrid:
    """How blocks are quantized: a value is (code - `zero`) times the block's FP32 scale.

    Attributes:
        bits: 4 or 8.
        size: b.
    """

    bits: int
    size: int

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or self.size not in BLOCK_SIZES:
            raise PlanError(
                "Weights have no such blocks.",
                found=f"{self.bits} bits in blocks of {self.size}",
                expected=f"4 or 8 bits in blocks of {', '.join(map(str, BLOCK_SIZES))}",
            )

    @property
    def zero(self) -> int:
        """The code of 0, which the operator takes where no zero points are given."""
        return 1 << (self.bits - 1)

    def blocks(self, columns: int) -> int:
        """G."""
        return -(-columns // self.size)

    def quantized(self, rows_NK: Array) -> tuple[Array, Array]:
        """Codes [N,G,b] (UINT8, one a byte) and scales [N,G] (FP32) of the least squared error tried."""
        values_NGb = self._in_blocks(rows_NK)
        extreme_NG = _extreme(values_NGb)
        base_NG = extreme_NG / np.float32(-self.zero)
        best_NG, scale_NG = np.full(base_NG.shape, np.inf, np.float32), base_NG
        for factor in _FACTORS if self.bits < _BYTE else (np.float32(1.0),):
            tried_NG = base_NG * factor
            back_NGb = self._codes(values_NGb, tried_NG) * tried_NG[..., None]
            error_NG = np.square(back_NGb - values_NGb).sum(axis=2)
            better_NG = error_NG < best_NG
            best_NG = np.where(better_NG, error_NG, best_NG)
            scale_NG = np.where(better_NG, tried_NG, scale_NG)
        codes_NGb = (self._codes(values_NGb, scale_NG) + self.zero).astype(np.uint8)
        return codes_NGb, scale_NG.astype(np.float32)

    def values(self, codes_NGb: Array, scale_NG: Array, columns: int) -> Array:
        """What codes stand for, FP32 [N,K]."""
        wide_NGb = (codes_NGb.astype(np.float32) - self.zero) * scale_NG[..., None]
        values_NK: Array = wide_NGb.reshape(len(wide_NGb), -1)[:, :columns]
        return values_NK

    def packed(self, codes_NGb: Array) -> Array:
        """UINT8 [N,G,b*bits/8]; of two 4-bit codes the first lies in the low half."""
        if self.bits == _BYTE:
            return codes_NGb
        packed: Array = codes_NGb[..., 0::2] | (codes_NGb[..., 1::2] << 4)
        return packed

    def _in_blocks(self, rows_NK: Array) -> Array:
        rows, columns = rows_NK.shape
        padding = self.blocks(columns) * self.size - columns
        padded = np.pad(rows_NK.astype(np.float32), ((0, 0), (0, padding)))
        return padded.reshape(rows, -1, self.size)

    def _codes(self, values_NGb: Array, scale_NG: Array) -> Array:
        """Signed codes as floats; a block of zeros has the scale 0."""
        divisor = np.where(scale_NG == 0, np.float32(1.0), scale_NG)[..., None]
        codes: Array = np.clip(np.rint(values_NGb / divisor), -self.zero, self.zero - 1)
        return codes


def _extreme(values_NGb: Array) -> Array:
    """The value of the largest magnitude of each block, with its sign."""
    index = np.abs(values_NGb).argmax(axis=2)[..., None]
    extreme: Array = np.take_along_axis(values_NGb, index, axis=2)[..., 0]
    return extreme


class BlockRows(RowTensor):
    """One of the two tensors of a weight in blocks, made while it is read.

    Args:
        source: The weight [N,K].
        grid: Its blocks.
        part: Takes packed codes and scales of some rows, and gives the rows of this tensor.
        dtype: Its type.
        dims: Its shape.
    """

    def __init__(
        self,
        source: WeightSource,
        grid: BlockGrid,
        part: Callable[[Array, Array], Array],
        *,
        dtype: ir.DataType,
        dims: tuple[int, ...],
        name: str,
    ) -> None:
        super().__init__(self._assembled, dtype, ir.Shape(dims), name=name)
        self._source, self._grid, self._part = source, grid, part

    def rows(self) -> Iterator[Array]:
        """Rows in order, some at a time."""
        for chunk in self._source.chunks():
            codes_NGb, scale_NG = self._grid.quantized(chunk)
            yield np.ascontiguousarray(self._part(self._grid.packed(codes_NGb), scale_NG))

    def tofile(self, file: Any) -> None:
        """Stream the rows into a binary file."""
        for rows in self.rows():
            file.write(rows.view(np.uint8).data)

    def _assembled(self) -> ir.TensorProtocol:
        return ir.Tensor(np.concatenate(list(self.rows())), dtype=self.dtype, name=self.name)


def block_tensors(source: WeightSource, grid: BlockGrid, name: str) -> tuple[BlockRows, BlockRows]:
    """Packed codes UINT8 [N,G,b*bits/8] and scales FLOAT [N,G] of a weight [N,K]."""
    rows, columns = source.shape
    blocks = grid.blocks(columns)
    codes = BlockRows(
        source,
        grid,
        lambda packed, _: packed,
        dtype=ir.DataType.UINT8,
        dims=(rows, blocks, grid.size * grid.bits // _BYTE),
        name=f"{name}.int{grid.bits}",
    )
    scales = BlockRows(
        source,
        grid,
        lambda _, scale: scale,
        dtype=ir.DataType.FLOAT,
        dims=(rows, blocks),
        name=f"{name}.scales",
    )
    return codes, scales
