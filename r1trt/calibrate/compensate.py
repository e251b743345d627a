"""Weights in few bits, each column's rounding error made up for by the columns after it (GPTQ).

With inputs X of a linear and H = X^T X, the squared error of its output is the trace of E H E^T, where E is
the rounded weight less the weight. Once some columns are rounded, the others that make this least follow from
the upper triangle U of H^-1 = U^T U: a column that is rounded by r adds r U[k,j] / U[k,k] to each column j
after it (https://arxiv.org/abs/2210.17323).

What H counts decides what is kept: see `r1trt.lowerings.input_products`.

Legend: N rows of a weight, K its columns, B blocks of a row, n some rows, k some columns.
"""

from __future__ import annotations

import numpy as np

from r1trt.errors import PlanError
from r1trt.graph.weight_grid import Array, Floats, Grid, row_chunks, scales_of_rows, scales_of_weight

# Columns that errors from before reach in one product; among themselves they pass theirs on one by one.
_COLUMNS = 128


def compensated_weight(
    weight_NK: Array,
    hessian_KK: Array,
    grid: Grid,
    *,
    searched: bool = True,
    scales: Floats | None = None,
    damping: float = 0.01,
) -> tuple[Array, Floats]:
    """Quantize a weight so that its products with the inputs change little.

    Memory: a few times H in FP64, the codes, and some rows of the weight in FP32 at a time.

    Args:
        weight_NK: Finite floats.
        hessian_KK: H, or any multiple of it. Columns of no input are rounded to
            nearest.
        grid: What the weight becomes. The scale of a block suits what the columns before it left to it.
        searched: Scales of the smallest squared error, columns counted by the diagonal of H; else those of
            the largest magnitudes, which do as well for INT8 and FP8.
        scales: Known ones, [1,1] or [N,1], of a tensor or of rows; None finds them.
        damping: Part of the mean of H's diagonal that is added to the diagonal.

    Returns:
        Codes [N,K]; scales FP32 [1,1], [N,1] or [N,B].

    Raises:
        PlanError: H is no finite [K,K], or not positive definite with the damping.
    """
    feedback_KK = _feedback(hessian_KK, weight_NK.shape[1], damping)
    importance_K = np.diagonal(hessian_KK) if searched else None
    fixed = scales
    if fixed is None and grid.scaling != "block":
        fixed = scales_of_weight(weight_NK, grid, importance_K)
    parts = []
    for rows in row_chunks(weight_NK):
        weight_Kn = np.array(weight_NK[rows].T, np.float32, order="C")
        given = fixed if fixed is None or grid.scaling == "tensor" else fixed[rows]
        parts.append(_compensated_rows(weight_Kn, feedback_KK, grid, importance_K, given))
    codes, found = zip(*parts, strict=True)
    return np.concatenate(codes), np.concatenate(found) if fixed is None else fixed


def _feedback(hessian_KK: Array, width: int, damping: float) -> Floats:
    """U[k,j] / U[k,k] of the damped H for j > k, elsewhere 0; FP32."""
    damped_KK = np.array(hessian_KK, np.float64)
    if damped_KK.shape != (width, width) or not np.isfinite(damped_KK).all():
        raise PlanError(
            "What was measured of a weight's inputs does not fit the weight.",
            found=f"{damped_KK.shape}, {np.count_nonzero(~np.isfinite(damped_KK))} numbers not finite",
            expected=f"{(width, width)}, all finite",
        )
    diagonal_K = np.diagonal(damped_KK).copy()
    unused_K = diagonal_K <= 0
    damped_KK[unused_K] = damped_KK[:, unused_K] = 0.0
    damped_KK[np.diag_indices(width)] += np.where(unused_K, 1.0, damping * diagonal_K.mean())
    try:
        # H's lower factor in reverse order is, reversed again, an upper factor R of H = R R^T, and U = R^-1.
        inverse_KK = np.linalg.inv(np.linalg.cholesky(damped_KK[::-1, ::-1])[::-1, ::-1])
    except np.linalg.LinAlgError as error:
        raise PlanError(
            "A weight's inputs depend on each other.", found=error, fix="measure them on more text"
        ) from error
    inverse_KK /= np.diagonal(inverse_KK).copy()[:, None]
    return np.triu(inverse_KK, 1).astype(np.float32)


def _compensated_rows(
    weight_Kn: Floats, feedback_KK: Floats, grid: Grid, importance_K: Array | None, given: Floats | None
) -> tuple[Array, Floats]:
    """Codes [n,K] and scales of some rows of a weight; transposed, so that a column is contiguous.

    Args:
        weight_Kn: The rows.
        feedback_KK: What a column's rounding adds to the columns after it.
        grid: What they become.
        importance_K: How often a column's squared error counts in a search of scales; None for no search.
        given: Scales [n,1] or [1,1] that all columns share; None where each block has its own.
    """
    width = len(weight_Kn)
    rounding_Kn = np.empty_like(weight_Kn)
    codes, scales = [], []
    for panel in _panels(grid, width):
        before = slice(0, panel.start)
        left_kn = weight_Kn[panel] + feedback_KK[before, panel].T @ rounding_Kn[before]
        if given is None:
            importance_k = None if importance_K is None else importance_K[panel]
            scales.append(scales_of_rows(np.ascontiguousarray(left_kn.T), grid, importance_k))
        scale_n = (scales[-1] if given is None else given)[:, 0]
        for index, column in enumerate(range(panel.start, panel.stop)):
            codes.append(grid.codes(left_kn[index], scale_n))
            rounding_Kn[column] = codes[-1].astype(np.float32) * scale_n - left_kn[index]
            later = slice(column + 1, panel.stop)
            left_kn[index + 1 :] += feedback_KK[column, later, None] * rounding_Kn[column]
    return np.stack(codes, axis=1), given if given is not None else np.concatenate(scales, axis=1)


def _panels(grid: Grid, width: int) -> list[slice]:
    """The blocks of a row, whose scales follow from the errors before them; else _COLUMNS columns each."""
    if grid.scaling == "block":
        return grid.blocks(width)
    return [slice(start, min(start + _COLUMNS, width)) for start in range(0, width, _COLUMNS)]
