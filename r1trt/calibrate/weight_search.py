"""Scales of quantized weights, one a row, by their squared error.

A row has few weights, and where its largest one lands on E4M3's grid matters: of SmolLM2-135M the search
takes 5 % of the squared error, and lowers the KL divergence of the FP8 model from 0.0375 by 0.0022 +- 0.0015
(4096 held-out tokens). Scales of whole tensors lie at their best already: it takes 0.4 % there.

Legend: R rows, K weights of a row, C candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from r1trt.graph.codes import CodeType
from r1trt.graph.quantize import WeightSource

WEIGHT_FRACTIONS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8)
"""Of the scale of the largest magnitude; what is smaller clips more than it gains."""


def searched_row_scales(
    source: WeightSource, scale_R: NDArray[np.float32], codes: CodeType
) -> NDArray[np.float32]:
    """For each row the candidate of the smallest squared error.

    Args:
        source: Weights [R,K], read again.
        scale_R: Scales of the rows' largest magnitudes.
        codes: What they are quantized to.
    """
    found, start = [], 0
    for chunk_RK in source.chunks():
        own_R = scale_R[start : start + len(chunk_RK)]
        values_RK = chunk_RK.astype(np.float32)
        candidates_CR = np.stack([own_R * np.float32(part) for part in WEIGHT_FRACTIONS])
        errors_CR = np.stack([_errors(values_RK, scales_R, codes) for scales_R in candidates_CR])
        found.append(candidates_CR[errors_CR.argmin(axis=0), np.arange(len(own_R))])
        start += len(chunk_RK)
    return np.concatenate(found)


def _errors(
    values_RK: NDArray[np.float32], scale_R: NDArray[np.float32], codes: CodeType
) -> NDArray[np.float64]:
    scale_R1 = scale_R[:, None]
    back_RK = codes.codes(values_RK, scale_R1).astype(np.float32) * scale_R1
    errors_R: NDArray[np.float64] = np.square(back_RK - values_RK, dtype=np.float64).sum(axis=1)
    return errors_R
