"""Weights in INT8 or INT4 blocks along their rows, as com.microsoft.MatMulNBits reads them; streamed.

Legend: N rows, K columns, G blocks of a row (the last one padded), b block size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.graph.quantize import RowTensor, WeightSource, require_finite
from r1trt.graph.weight_grid import Grid, rounded_weight, scales_of_weight

Array = NDArray[Any]
MATMUL_NBITS = "MatMulNBits"
BLOCK_SIZES = (16, 32, 64, 128, 256)
"""What the operator takes (ONNX Runtime's ContribOperators.md, MatMulNBits)."""
BITS = {"int4": 4, "int8": 8}
_BYTE = 8


def packed_codes(codes_NK: Array, grid: Grid) -> Array:
    """UINT8 [N,G,b*bits/8]: codes above the one that the operator takes for 0, two of INT4 in a byte.

    Args:
        codes_NK: Signed codes.
        grid: With blocks.
    """
    bits, size = BITS[grid.code], grid.block_size
    assert size is not None, "weights in blocks have a block size"
    columns = codes_NK.shape[1]
    padded = np.pad(codes_NK.astype(np.int16), ((0, 0), (0, -columns % size))) + (1 << (bits - 1))
    codes_NGb = padded.astype(np.uint8).reshape(len(codes_NK), -1, size)
    if bits == _BYTE:
        return codes_NGb
    packed: Array = codes_NGb[..., 0::2] | (codes_NGb[..., 1::2] << 4)
    return packed


class BlockRows(RowTensor):
    """One of the two tensors of a weight in blocks, made while it is read.

    Args:
        source: The weight [N,K].
        part: Makes the rows of this tensor of some rows of the weight.
        dtype: Its type.
        dims: Its shape.
    """

    def __init__(
        self,
        source: WeightSource,
        part: Callable[[Array], Array],
        *,
        dtype: ir.DataType,
        dims: tuple[int, ...],
        name: str,
    ) -> None:
        super().__init__(self._assembled, dtype, ir.Shape(dims), name=name)
        self._source, self._part = source, part

    def rows(self) -> Iterator[Array]:
        """Rows in order, some at a time."""
        for chunk in self._source.chunks():
            values = chunk.astype(np.float32)
            require_finite(values, self._source.name)
            yield np.ascontiguousarray(self._part(values))

    def tofile(self, file: Any) -> None:
        """Stream the rows into a binary file."""
        for rows in self.rows():
            file.write(rows.view(np.uint8).data)

    def _assembled(self) -> ir.TensorProtocol:
        return ir.Tensor(np.concatenate(list(self.rows())), dtype=self.dtype, name=self.name)


def block_name(weight: str, grid: Grid) -> str:
    """Name of a weight's codes in a typed graph; that of its scales ends in ".scales"."""
    return f"{weight}.{grid.code}_blocks{grid.block_size}"


def block_importance(grid: Grid, columns: int) -> Array | None:
    """Of a search of scales, which INT4 gains by, columns that count alike; None searches nothing."""
    return np.ones(columns, np.float32) if grid.code == "int4" else None


def block_tensors(source: WeightSource, grid: Grid, name: str) -> tuple[BlockRows, BlockRows]:
    """Packed codes UINT8 [N,G,b*bits/8] and scales FLOAT [N,G] of a weight [N,K], rounded to nearest.

    INT4's scales are searched for the smallest squared error, of INT8 the largest magnitude gives them.
    """
    rows, columns = source.shape
    blocks, size = len(grid.blocks(columns)), grid.block_size or columns
    importance_K = block_importance(grid, columns)

    def scales_of(chunk_NK: Array) -> Array:
        return scales_of_weight(chunk_NK, grid, importance_K)

    scales_name = f"{block_name(name, grid)}.scales"
    codes = BlockRows(
        source,
        lambda chunk_NK: packed_codes(rounded_weight(chunk_NK, scales_of(chunk_NK), grid), grid),
        dtype=ir.DataType.UINT8,
        dims=(rows, blocks, size * BITS[grid.code] // _BYTE),
        name=block_name(name, grid),
    )
    scales = BlockRows(source, scales_of, dtype=ir.DataType.FLOAT, dims=(rows, blocks), name=scales_name)
    return codes, scales
