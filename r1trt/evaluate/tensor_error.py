"""Error of a tensor against its reference, gathered piece by piece."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

ROWS = 32
"""Rows converted to FP64 at a time: 32 rows of a 150k vocabulary are 40 MB."""


@dataclass
class TensorError:
    """Error of one tensor against its reference, gathered over pieces.

    Attributes:
        max_absolute: Largest |tested - reference|.
        max_reference: Largest |reference|.
        square_error: Sum of (tested - reference)^2.
        square_reference: Sum of reference^2.
        not_finite: Elements of the tested tensor that are NaN or infinite; they count nowhere else.
    """

    max_absolute: float = 0.0
    max_reference: float = 0.0
    square_error: float = 0.0
    square_reference: float = 0.0
    not_finite: int = 0

    def update(self, reference: FloatArray, tested: FloatArray) -> None:
        """Adds one more piece; both arrays have the same shape."""
        for start in range(0, len(reference), ROWS):
            want = reference[start : start + ROWS].astype(np.float64)
            got = tested[start : start + ROWS].astype(np.float64)
            finite = np.isfinite(got)
            self.not_finite += int(finite.size - np.count_nonzero(finite))
            difference = np.where(finite, got - want, 0.0)
            self.max_absolute = max(self.max_absolute, float(np.abs(difference).max(initial=0.0)))
            self.max_reference = max(self.max_reference, float(np.abs(want).max(initial=0.0)))
            self.square_error += float(np.square(difference).sum())
            self.square_reference += float(np.square(want).sum())

    @property
    def max_relative(self) -> float:
        """Largest error, relative to the largest reference."""
        return _ratio(self.max_absolute, self.max_reference)

    @property
    def relative_rms(self) -> float:
        """Root of the mean square error, relative to that of the reference."""
        return _ratio(math.sqrt(self.square_error), math.sqrt(self.square_reference))

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures that a report shows."""
        return {
            "max_absolute": self.max_absolute,
            "max_relative": self.max_relative,
            "relative_rms": self.relative_rms,
            "not_finite": self.not_finite,
        }


def _ratio(error: float, reference: float) -> float:
    if reference > 0:
        return error / reference
    return 0.0 if error == 0 else math.inf
