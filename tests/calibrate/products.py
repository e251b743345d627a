"""H of a linear's inputs by its definition, in FP64."""

from __future__ import annotations

import numpy as np

from r1trt.lowerings.input_products import FIRST_TOKEN_COUNT


def products_of_inputs(inputs_TK: np.ndarray, starts_T: np.ndarray) -> np.ndarray:
    """Outer products of all tokens, each of length 1, a sequence's first counted more often."""
    total = np.zeros((inputs_TK.shape[1],) * 2)
    for row, first in zip(inputs_TK.astype(np.float64), starts_T, strict=True):
        total += (FIRST_TOKEN_COUNT if first else 1) * np.outer(row, row) / max(float(row @ row), 1e-300)
    return total
