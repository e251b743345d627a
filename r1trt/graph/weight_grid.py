"""The numbers that a quantized weight may take, and the scales that suit a weight.

Legend: N rows of a weight, K its columns, B blocks of a row, n some rows, k some columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from r1trt.errors import PlanError
from r1trt.graph.codes import CODE_TYPES

Code = Literal["fp8_e4m3", "int8", "int4"]
CODES: tuple[Code, ...] = get_args(Code)
Scaling = Literal["tensor", "channel", "block"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)

# Multiples of the scale of the largest magnitude that a search tries; of equal errors the first wins. Sixteen
# codes gain from clipping and, as the largest magnitude has a code -8 and its opposite only 7, from a wider
# step. A row has few weights, and where its largest one lands on E4M3's grid matters: of SmolLM2-135M the
# search takes 5 % of the rows' squared error, and lowers the KL divergence of the FP8 model from 0.0375 by
# 0.0022 +- 0.0015 (4096 held-out tokens). Whole tensors gain 0.4 %; smaller scales clip more than they gain.
_BYTE_FRACTIONS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8)
FRACTIONS: dict[Code, tuple[float, ...]] = {
    "fp8_e4m3": _BYTE_FRACTIONS,
    "int8": _BYTE_FRACTIONS,
    "int4": (1.0, *(1.2 - step / 40 for step in range(21) if step != 8)),
}
_CHUNK_BYTES = 16 << 20
_INT4_LOWEST = -8

Array = NDArray[Any]
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The numbers that a weight may take: codes times scales.

    Attributes:
        code: Type of the codes. Those of "int8" are -127 to 127, of "int4" -8 to 7, both held as int8.
        scaling: One scale for the tensor, one a row ("channel"), or one for each block of a row.
        block_size: Columns of a block, where scaling is "block"; the last block of a row may be shorter.
    """

    code: Code
    scaling: Scaling
    block_size: int | None = None

    def __post_init__(self) -> None:
        """Raises PlanError for what does not fit together."""
        if self.code not in CODES or self.scaling not in SCALINGS:
            raise PlanError(
                "A quantized weight has codes or a scaling that are not handled.",
                found=(self.code, self.scaling),
                expected=f"{' | '.join(CODES)}, {' | '.join(SCALINGS)}",
            )
        size = self.block_size
        if (self.scaling == "block") != (size is not None) or (size is not None and size < 1):
            raise PlanError("Blocks of a weight have a size, other scalings none.", found=self)

    def blocks(self, width: int) -> list[slice]:
        """Columns that share a scale, of rows of `width` columns."""
        size = self.block_size or width
        return [slice(start, min(start + size, width)) for start in range(0, width, size)]

    def codes(self, values: Array, scales: Array) -> Array:
        """Codes nearest to FP32 `values`; FP32 `scales` broadcast against them."""
        if self.code != "int4":
            return CODE_TYPES[self.code].codes(values, scales)
        return np.clip(np.rint(values / scales), _INT4_LOWEST, -_INT4_LOWEST - 1).astype(np.int8)

    def largest_scales(self, values_nk: Floats) -> Floats:
        """Scales [n,1] that give each row's largest magnitude the outermost code; 1 for rows of zeros.

        An "int4" scale is negative where that magnitude is a positive number's: its code is -8 too.
        """
        largest_n1 = np.argmax(np.abs(values_nk), axis=1, keepdims=True)
        extreme_n1 = np.take_along_axis(values_nk, largest_n1, axis=1)
        if self.code == "int4":
            scales = extreme_n1 / np.float32(_INT4_LOWEST)
        else:
            scales = np.abs(extreme_n1) / np.float32(CODE_TYPES[self.code].largest)
        # A subnormal magnitude underflows to 0; such weights are negligible.
        return np.where(scales != 0, scales, np.float32(1)).astype(np.float32)

    def searched_scales(self, values_nk: Floats, importance_k: Array) -> Floats:
        """Scales [n,1] of the smallest squared error, each column's counted `importance_k` times."""
        tried = self.largest_scales(values_nk) * np.array(FRACTIONS[self.code], np.float32)
        errors = [self.squared_errors(values_nk, scales[:, None], importance_k) for scales in tried.T]
        best_n1 = np.argmin(errors, axis=0)[:, None]
        return np.take_along_axis(tried, best_n1, axis=1)

    def squared_errors(self, values_nk: Floats, scales: Floats, importance_k: Array) -> NDArray[np.float64]:
        """Each row's squared error [n] of rounding to nearest."""
        rounded_nk = self.codes(values_nk, scales).astype(np.float32) * scales
        errors_n: NDArray[np.float64] = np.square(rounded_nk - values_nk) @ np.asarray(
            importance_k, np.float64
        )
        return errors_n


def scales_of_weight(weight_NK: Array, grid: Grid, importance_K: Array | None = None) -> Floats:
    """Scales of a weight: of its largest magnitudes, or searched for the smallest squared error.

    Args:
        weight_NK: Finite floats.
        grid: What the weight becomes.
        importance_K: How often the squared error of each column counts: the mean squares of a linear's
            inputs, or ones. None searches nothing.

    Returns:
        FP32 [1,1], [N,1] or [N,B], as the grid's scaling is.
    """
    if grid.scaling == "tensor":
        return _scale_of_tensor(weight_NK, grid, importance_K)
    blocks = grid.blocks(weight_NK.shape[1])
    scales_NB = np.empty((len(weight_NK), len(blocks)), np.float32)
    for rows in row_chunks(weight_NK):
        for index, block in enumerate(blocks):
            values_nk = weight_NK[rows, block].astype(np.float32)
            importance_k = None if importance_K is None else importance_K[block]
            scales_NB[rows, index] = scales_of_rows(values_nk, grid, importance_k)[:, 0]
    return scales_NB


def scales_of_rows(values_nk: Floats, grid: Grid, importance_k: Array | None) -> Floats:
    """One scale for each row [n,1], searched where columns have an importance."""
    if importance_k is None:
        return grid.largest_scales(values_nk)
    return grid.searched_scales(values_nk, importance_k)


def _scale_of_tensor(weight_NK: Array, grid: Grid, importance_K: Array | None) -> Floats:
    chunks = row_chunks(weight_NK)
    extremes_1n = np.array([[_extreme(weight_NK[rows]) for rows in chunks]], np.float32)
    largest = grid.largest_scales(extremes_1n)
    if importance_K is None:
        return largest
    tried = largest[0, 0] * np.array(FRACTIONS[grid.code], np.float32)
    errors = np.zeros(len(tried))
    for rows in chunks:
        values_nK = weight_NK[rows].astype(np.float32)
        errors += [grid.squared_errors(values_nK, scale, importance_K).sum() for scale in tried]
    return np.array([[tried[np.argmin(errors)]]], np.float32)


def _extreme(values: Array) -> float:
    """The number of the largest magnitude, with its sign."""
    return float(values.flat[np.abs(values).argmax()])


def rounded_weight(weight_NK: Array, scales: Floats, grid: Grid) -> Array:
    """Codes [N,K] nearest to a weight."""
    codes = [
        grid.codes(weight_NK[rows].astype(np.float32), by_column(scales, grid, rows, weight_NK.shape[1]))
        for rows in row_chunks(weight_NK)
    ]
    return np.concatenate(codes)


def dequantized_weight(codes_NK: Array, scales: Floats, grid: Grid) -> Floats:
    """FP32 [N,K] of codes and scales."""
    weight_NK: Floats = codes_NK.astype(np.float32) * by_column(scales, grid, slice(None), codes_NK.shape[1])
    return weight_NK


def by_column(scales: Floats, grid: Grid, rows: slice, width: int) -> Floats:
    """The scales of some rows, such that they broadcast against the rows' columns."""
    if grid.block_size is None:
        return scales if grid.scaling == "tensor" else scales[rows]
    repeated: Floats = np.repeat(scales[rows], grid.block_size, axis=1)
    return repeated[:, :width]


def row_chunks(weight_NK: Array) -> list[slice]:
    """Rows that are about 16 MiB in FP32."""
    rows, width = weight_NK.shape
    step = max(_CHUNK_BYTES // (4 * max(width, 1)), 1)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
