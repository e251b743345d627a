"""Compensated weights against the method's own description, step by step in FP64."""

from __future__ import annotations

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from calibrate.products import products_of_inputs
from numpy.typing import NDArray

from r1trt.calibrate.compensate import compensated_weight
from r1trt.errors import PlanError
from r1trt.graph import weight_grid
from r1trt.graph.weight_grid import (
    FRACTIONS,
    Grid,
    dequantized_weight,
    rounded_weight,
    scales_of_weight,
)

GRIDS = [
    Grid(code="fp8_e4m3", scaling="tensor"),
    Grid(code="fp8_e4m3", scaling="channel"),
    Grid(code="int8", scaling="channel"),
    Grid(code="int8", scaling="block", block_size=32),
    Grid(code="int4", scaling="channel"),
    Grid(code="int4", scaling="block", block_size=32),
    Grid(code="int4", scaling="block", block_size=20),
    Grid(code="int4", scaling="block", block_size=160),
]
each_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)
ROWS, COLUMNS = 12, 200
DAMPING = 0.01

Doubles = NDArray[np.float64]


def weight_of(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32)


def hessian_of(seed: int = 0, columns: int = COLUMNS) -> NDArray[np.float32]:
    """Of inputs that depend on each other and differ in size."""
    rng = np.random.default_rng(seed + 100)
    mixed = rng.normal(size=(3 * columns, columns)) @ rng.normal(size=(columns, columns))
    inputs = (mixed * np.exp(rng.normal(size=columns))).astype(np.float32)
    return inputs.T @ inputs


def nearest(grid: Grid, values: Doubles, scale: Doubles) -> Doubles:
    """Values rounded to codes, in FP64 but for the step that FP8's definition is left to."""
    scaled = values / scale
    if grid.code == "fp8_e4m3":
        return np.clip(scaled, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    low, high = {"int8": (-127, 127), "int4": (-8, 7)}[grid.code]
    return np.clip(np.rint(scaled), low, high)


def largest(grid: Grid, row: Doubles) -> float:
    extreme = float(row[np.argmax(np.abs(row))])
    return extreme / -8 if grid.code == "int4" else abs(extreme) / {"int8": 127, "fp8_e4m3": 448}[grid.code]


def searched(grid: Grid, rows: list[Doubles], importance: Doubles) -> float:
    """The scale that some rows share, by trying all of them."""
    whole = np.concatenate(rows)
    tried = [largest(grid, whole) * fraction for fraction in FRACTIONS[grid.code]]
    errors = [
        sum(float(importance @ (nearest(grid, row, np.array(s)) * s - row) ** 2) for row in rows)
        for s in tried
    ]
    return tried[int(np.argmin(errors))]


def spans(grid: Grid, columns: int) -> list[tuple[int, int]]:
    edges = [*range(0, columns, grid.block_size or columns), columns]
    return list(pairwise(edges))


def fixed_scales(grid: Grid, weight: Doubles, importance: Doubles | None) -> Doubles:
    """[N, columns]: of the weight as it is."""
    rows = list(weight)
    groups = [rows] if grid.scaling == "tensor" else [[row] for row in rows]
    scales = np.empty_like(weight)
    for start, stop in spans(grid, weight.shape[1]):
        for index, group in enumerate(groups):
            parts = [row[start:stop] for row in group]
            taken = (
                largest(grid, np.concatenate(parts))
                if importance is None
                else searched(grid, parts, importance[start:stop])
            )
            chosen = slice(None) if grid.scaling == "tensor" else index
            scales[chosen, start:stop] = taken
    return scales


def optimal_brain_quantization(
    grid: Grid, weight: Doubles, hessian: Doubles, search: bool
) -> tuple[Doubles, Doubles]:
    """GPTQ as its paper derives it: the inverse of H, of which each column that is rounded is eliminated."""
    left = weight.copy()
    rounded, scales = np.empty_like(left), np.empty_like(left)
    importance = np.diag(hessian).copy() if search else None
    inverse = np.linalg.inv(hessian + DAMPING * np.diag(hessian).mean() * np.eye(len(hessian)))
    starts = {start: stop for start, stop in spans(grid, weight.shape[1])}
    for column in range(weight.shape[1]):
        if column in starts:
            block = slice(column, starts[column])
            part = None if importance is None else importance[block]
            own = Grid(code=grid.code, scaling="tensor" if grid.scaling == "tensor" else "channel")
            scales[:, block] = fixed_scales(own, left[:, block], part)
        scale = scales[:, column]
        rounded[:, column] = nearest(grid, left[:, column], scale) * scale
        error = (left[:, column] - rounded[:, column]) / inverse[column, column]
        left -= np.outer(error, inverse[column])
        inverse = inverse - np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return rounded, scales


def output_error(rounded: NDArray[np.float32], weight: NDArray[np.float32], hessian: Doubles) -> float:
    error = rounded.astype(np.float64) - weight
    return float(np.sum((error @ hessian) * error))


@each_grid
@pytest.mark.parametrize("search", [False, True])
def test_the_methods_own_steps(grid: Grid, search: bool) -> None:
    weight, hessian = weight_of(), hessian_of()
    codes, scales = compensated_weight(weight, hessian, grid, searched=search, damping=DAMPING)
    want, want_scales = optimal_brain_quantization(
        grid, weight.astype(np.float64), hessian.astype(np.float64), search
    )
    got = dequantized_weight(codes, scales, grid)
    shape = {"tensor": (1, 1), "channel": (ROWS, 1), "block": (ROWS, len(spans(grid, COLUMNS)))}
    assert codes.shape == weight.shape and scales.shape == shape[grid.scaling] and scales.dtype == np.float32
    by_column = np.broadcast_to(weight_grid.by_column(scales, grid, slice(None), COLUMNS), weight.shape)
    np.testing.assert_allclose(by_column, want_scales, rtol=1e-3)
    np.testing.assert_allclose(got, want, atol=1e-3 * float(np.abs(want).max()))


@each_grid
@pytest.mark.parametrize("seed", range(3))
def test_the_output_changes_less_than_by_rounding(grid: Grid, seed: int) -> None:
    weight, hessian = weight_of(seed), hessian_of(seed).astype(np.float64)
    scales = scales_of_weight(weight, grid, np.diag(hessian))
    nearest_codes = rounded_weight(weight, scales, grid)
    before = output_error(dequantized_weight(nearest_codes, scales, grid), weight, hessian)
    after = output_error(
        dequantized_weight(*compensated_weight(weight, hessian, grid), grid), weight, hessian
    )
    assert after < 0.9 * before, (before, after)


@each_grid
@pytest.mark.parametrize("search", [False, True])
def test_inputs_that_do_not_depend_on_each_other_round_to_nearest(grid: Grid, search: bool) -> None:
    weight = weight_of()
    sizes = np.linspace(0.5, 2.0, COLUMNS)
    codes, scales = compensated_weight(weight, np.diag(sizes), grid, searched=search)
    want_scales = scales_of_weight(weight, grid, sizes if search else None)
    assert np.array_equal(scales, want_scales)
    assert np.array_equal(codes, rounded_weight(weight, want_scales, grid))


@each_grid
def test_columns_without_inputs_round_to_nearest(grid: Grid) -> None:
    weight, hessian = weight_of(), hessian_of()
    unused = [0, 1, 50, COLUMNS - 1]
    hessian[unused] = hessian[:, unused] = 0.0
    codes, scales = compensated_weight(weight, hessian, grid)
    by_column = np.broadcast_to(weight_grid.by_column(scales, grid, slice(None), COLUMNS), weight.shape)
    want = grid.codes(weight[:, unused], by_column[:, unused])
    assert np.array_equal(codes[:, unused], want)
    error = output_error(dequantized_weight(codes, scales, grid), weight, hessian.astype(np.float64))
    plain = rounded_weight(weight, scales, grid)
    before = output_error(dequantized_weight(plain, scales, grid), weight, hessian.astype(np.float64))
    assert error < before


@each_grid
def test_no_input_at_all_and_no_weight_at_all(grid: Grid) -> None:
    weight = weight_of()
    codes, scales = compensated_weight(weight, np.zeros((COLUMNS, COLUMNS)), grid)
    assert np.array_equal(codes, rounded_weight(weight, scales_of_weight(weight, grid), grid))
    codes, scales = compensated_weight(np.zeros_like(weight), hessian_of(), grid)
    assert np.isfinite(scales).all() and not codes.astype(np.float32).any()


@each_grid
def test_the_search_finds_the_best_of_what_it_tries(grid: Grid) -> None:
    weight = weight_of()
    importance = np.exp(np.random.default_rng(5).normal(size=COLUMNS))
    scales = weight_grid.by_column(scales_of_weight(weight, grid, importance), grid, slice(None), COLUMNS)
    want = fixed_scales(grid, weight.astype(np.float64), importance)
    np.testing.assert_allclose(np.broadcast_to(scales, weight.shape), want, rtol=1e-6)


@each_grid
def test_rows_in_chunks(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = weight_of(rows=7), hessian_of()
    whole = compensated_weight(weight, hessian, grid)
    monkeypatch.setattr(weight_grid, "_CHUNK_BYTES", 3 * 4 * COLUMNS)
    assert len(weight_grid.row_chunks(weight)) == 3
    chunked = compensated_weight(weight, hessian, grid)
    np.testing.assert_allclose(chunked[1], whole[1], rtol=1e-6)
    got, want = (dequantized_weight(*parts, grid) for parts in (chunked, whole))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_first_tokens_keep_their_outputs() -> None:
    """One token in hundreds that is unlike the others: a plain sum gives it up, counting it more keeps it."""
    rng = np.random.default_rng(4)
    others = rng.normal(size=(1000, COLUMNS // 4)) @ rng.normal(size=(COLUMNS // 4, COLUMNS))
    inputs = np.concatenate([rng.normal(size=(2, COLUMNS)), others])
    starts = np.arange(len(inputs)) < 2
    weight, grid = weight_of(), Grid(code="int4", scaling="block", block_size=32)
    errors = []
    for hessian in (inputs.T @ inputs, products_of_inputs(inputs, starts)):
        rounded = dequantized_weight(*compensated_weight(weight, hessian, grid), grid)
        errors.append(float(np.square(inputs[starts] @ (rounded - weight).T).sum()))
    assert errors[1] < 0.3 * errors[0], errors


def test_the_scale_of_the_largest_magnitude() -> None:
    weight = np.array([[0.5, -2.0, 1.0], [0.5, 2.0, 1.0], [0.0, 0.0, 0.0]], np.float32)
    int4 = Grid(code="int4", scaling="channel")
    scales = scales_of_weight(weight, int4)
    assert scales[:, 0].tolist() == [0.25, -0.25, 1.0]
    assert rounded_weight(weight, scales, int4).tolist() == [[2, -8, 4], [-2, -8, -4], [0, 0, 0]]
    int8 = Grid(code="int8", scaling="tensor")
    assert scales_of_weight(weight, int8).tolist() == [[np.float32(2) / np.float32(127)]]


@pytest.mark.parametrize(
    ("code", "scaling", "size"),
    [
        ("int5", "channel", None),
        ("int4", "row", None),
        ("int4", "block", None),
        ("int4", "block", 0),
        ("int4", "channel", 32),
    ],
)
def test_grids_that_do_not_fit_together(code: str, scaling: str, size: int | None) -> None:
    with pytest.raises(PlanError):
        Grid(code=code, scaling=scaling, block_size=size)  # type: ignore[arg-type]  # what is tested


def test_what_was_measured_does_not_fit() -> None:
    grid = Grid(code="int4", scaling="channel")
    with pytest.raises(PlanError, match="does not fit"):
        compensated_weight(weight_of(), hessian_of()[1:, 1:], grid)
    broken = hessian_of()
    broken[3, 4] = np.nan
    with pytest.raises(PlanError, match="1 numbers not finite"):
        compensated_weight(weight_of(), broken, grid)
    same = np.ones((COLUMNS, COLUMNS))
    with pytest.raises(PlanError, match="depend on each other"):
        compensated_weight(weight_of(), same, grid, damping=0.0)
