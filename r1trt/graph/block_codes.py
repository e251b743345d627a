"""Weights in INT8 or INT4 blocks along their rows, as ONNX Runtime's operators read them; streamed.

com.microsoft.MatMulNBits multiplies by one matrix, com.microsoft.QMoE by a stack of experts'.

Legend: E experts, N rows, K columns, G blocks of a row (the last one padded), b block size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.graph.alternating import alternating
from r1trt.graph.quantize import RowTensor, WeightSource, require_finite
from r1trt.graph.weight_grid import Grid, rounded_weight, scales_of_weight

Array = NDArray[Any]
MATMUL_NBITS = "MatMulNBits"
BLOCK_SIZES = (16, 32, 64, 128, 256)
"""What the operator takes (ONNX Runtime's ContribOperators.md, MatMulNBits)."""
BITS = {"int4": 4, "int8": 8}
FLOAT_INPUT, INT8_INPUT = 1, 4
"""What the operators' products are computed in (accuracy_level)."""
_BYTE = 8


def product_attributes(
    rows: int, columns: int, *, bits: int, block_size: int | None, rounds_input: bool
) -> dict[str, int | None]:
    """Attributes of a MatMulNBits with a weight of so many rows and columns.

    `rounds_input`: activations become INT8 as they come, in the same blocks.
    """
    return {
        "K": columns,
        "N": rows,
        "bits": bits,
        "block_size": block_size,
        "accuracy_level": INT8_INPUT if rounds_input else FLOAT_INPUT,
    }


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
        source: The weight [...,K].
        part: Makes the rows of this tensor of some rows of the weight.
        dtype: Its type.
        dims: Its shape.
        alternates: Rows of the first and of the second half of each matrix take turns.
    """

    def __init__(
        self,
        source: WeightSource,
        part: Callable[[Array], Array],
        *,
        dtype: ir.DataType,
        dims: tuple[int, ...],
        name: str,
        alternates: bool = False,
    ) -> None:
        super().__init__(dtype, dims, name=name)
        self._source, self._part, self._alternates = source, part, alternates

    def rows(self) -> Iterator[Array]:
        """Rows in order, some at a time; those of a whole matrix where they take turns."""
        return alternating(self._made(), self._source.shape[-2]) if self._alternates else self._made()

    def _made(self) -> Iterator[Array]:
        for chunk in self._source.chunks():
            values = chunk.astype(np.float32)
            require_finite(values, self._source.name)
            yield np.ascontiguousarray(self._part(values))


def block_name(weight: str, grid: Grid) -> str:
    """Name of a weight's codes in a typed graph; that of its scales ends in ".scales"."""
    return f"{weight}.{grid.code}_blocks{grid.block_size}"


def block_importance(grid: Grid, columns: int) -> Array | None:
    """Of a search of scales, which INT4 gains by, columns that count alike; None searches nothing."""
    return np.ones(columns, np.float32) if grid.code == "int4" else None


def block_tensors(
    source: WeightSource, grid: Grid, name: str, *, alternates: bool = False
) -> tuple[BlockRows, BlockRows]:
    """Packed codes and scales of a weight, rounded to nearest.

    INT4's scales are searched for the smallest squared error, of INT8 the largest magnitude gives them.

    Args:
        source: A weight [N,K], or a stack [E,N,K] whose rows are whole blocks.
        grid: With blocks.
        name: The weight's; `block_name` makes those of the tensors of it.
        alternates: The first and the second half of each matrix's rows take turns, as QMoE reads gate and up.

    Returns:
        Codes UINT8 [N,G,b*bits/8], of a stack [E,N,K*bits/8]; scales FLOAT [N,G], of a stack [E,N,G].
    """
    *leading, columns = source.shape
    blocks, size = len(grid.blocks(columns)), grid.block_size or columns
    importance_K = block_importance(grid, columns)
    bytes_of_block = size * BITS[grid.code] // _BYTE
    row = (blocks, bytes_of_block) if len(leading) == 1 else (blocks * bytes_of_block,)

    def scales_of(chunk_NK: Array) -> Array:
        return scales_of_weight(chunk_NK, grid, importance_K)

    scales_name = f"{block_name(name, grid)}.scales"
    codes = BlockRows(
        source,
        lambda chunk_NK: packed_codes(rounded_weight(chunk_NK, scales_of(chunk_NK), grid), grid),
        dtype=ir.DataType.UINT8,
        dims=(*leading, *row),
        name=block_name(name, grid),
        alternates=alternates,
    )
    scales = BlockRows(
        source,
        scales_of,
        dtype=ir.DataType.FLOAT,
        dims=(*leading, blocks),
        name=scales_name,
        alternates=alternates,
    )
    return codes, scales
