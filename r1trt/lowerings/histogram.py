"""How magnitudes are distributed: counts in bins of equal ratio, from the largest magnitude down.

Bin n holds the magnitudes from 2^(-(n+1)/64) to 2^(-n/64) of the largest one: each is 1.1 % wide, down to
2^-16 of the largest, and the last one holds all below, zeros too. Legend: N bins, M indices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript._internal.builder import OpBuilder

from r1trt.graph.functions import to_float
from r1trt.lowerings.builder import INT64
from r1trt.lowerings.statistics import Statistic

BINS, BINS_OF_OCTAVE = 1024, 64


@dataclass(frozen=True, kw_only=True)
class Histogram(Statistic):
    """Counts of the magnitudes in each bin; `scales` holds the largest magnitude alone."""

    amax: bool = False
    size: int = BINS

    def measured(self, op: OpBuilder, x: ir.Value, scales: ir.Value) -> ir.Value:
        """FLOAT [N] of any finite x."""
        flat = op.Abs(op.Reshape(to_float(op, x), [-1]))
        octaves = op.Log(op.Div(flat, op.Squeeze(scales)))
        bins = op.Clip(op.Mul(octaves, -BINS_OF_OCTAVE / math.log(2)), 0.0, float(self.size - 1))
        return counts(op, op.Cast(bins, to=INT64), self.size)


HISTOGRAM = Histogram()


def counts(op: OpBuilder, index_M: ir.Value, size: int) -> ir.Value:
    """How often each of 0 to size - 1 is among int64 indices; FLOAT [size]."""
    none = op.ConstantOfShape(op.Constant(value_ints=[size]), value=ir.tensor(np.zeros(1, np.int64)))
    ones = op.ConstantOfShape(op.Shape(index_M), value=ir.tensor(np.ones(1, np.int64)))
    return to_float(op, op.ScatterElements(none, index_M, ones, axis=0, reduction="add"))


def magnitude_at(counts_N: NDArray[Any], amax: float, percent: float) -> float:
    """The magnitude that `percent` of all do not exceed, interpolated within its bin.

    Args:
        counts_N: A histogram.
        amax: The largest magnitude.
        percent: Above 0, 100 at most.

    Returns:
        The magnitude; `amax` where all but fewer than the rest are zero, or below 2^-16 of it.
    """
    above = float(counts_N.sum()) * (1.0 - percent / 100.0)
    reached_N = np.cumsum(counts_N)
    index = int(np.searchsorted(reached_N, above, side="right"))
    if index >= len(counts_N) - 1:
        return amax
    inside = (above - float(reached_N[index] - counts_N[index])) / float(counts_N[index])
    return float(amax * 2.0 ** (-(index + inside) / BINS_OF_OCTAVE))
