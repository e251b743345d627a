"""Errors of a tensor, gathered over pieces."""

from __future__ import annotations

import math

import numpy as np

from r1trt.evaluate.tensor_error import TensorError


def test_error_against_zero() -> None:
    zeros, ones = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    error = TensorError()
    error.update(zeros, zeros)
    assert error.max_relative == error.relative_rms == 0
    error.update(zeros, ones)
    assert error.max_relative == error.relative_rms == math.inf


def test_pieces_add_up() -> None:
    generator = np.random.default_rng(0)
    reference = generator.standard_normal((100, 7)).astype(np.float32)
    tested = reference + generator.standard_normal((100, 7)).astype(np.float32)
    whole, pieces = TensorError(), TensorError()
    whole.update(reference, tested)
    for start in range(0, 100, 13):
        pieces.update(reference[start : start + 13], tested[start : start + 13])
    assert pieces.max_relative == whole.max_relative
    assert math.isclose(pieces.relative_rms, whole.relative_rms)


def test_elements_that_are_not_finite_count_on_their_own() -> None:
    reference, tested = np.ones((2, 3), np.float32), np.full((2, 3), 2.0, np.float32)
    tested[0, 1], tested[1, 2] = np.nan, np.inf
    error = TensorError()
    error.update(reference, tested)
    assert error.not_finite == 2 and error.max_absolute == 1 and error.square_error == 4
