"""KL divergence of predictions: of two once, in FP64; and from one to many, whose own part is computed once.

Legend: S tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def kl_of_log_probabilities(
    log_p_SV: npt.NDArray[np.float64], log_q_SV: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """KL(p || q) of each token's next-token distributions, in nats, [S]."""
    # p log(p/q) is 0 where p is 0, also where both logarithms are -inf.
    with np.errstate(invalid="ignore"):
        terms_SV = np.where(np.isneginf(log_p_SV), 0.0, np.exp(log_p_SV) * (log_p_SV - log_q_SV))
    # Rounding can leave a KL of equal distributions a hair below zero.
    kl_S: npt.NDArray[np.float64] = np.maximum(terms_SV.sum(axis=1), 0.0)
    return kl_S


class Reference:
    """The predictions of one window, to compare many others with.

    Exponentials are in FP32 and sums in FP64, in half the memory and time of `kl_of_log_probabilities`: a
    search compares hundreds of choices with each window.

    Args:
        logits_SV: FLOAT logits.
    """

    def __init__(self, logits_SV: Array) -> None:
        self._logits_SV = logits_SV.astype(np.float32)
        self._lse_S, p_SV = _log_sum_exp(self._logits_SV)
        self._p_SV = p_SV / p_SV.sum(axis=1, keepdims=True)

    def kl(self, tested_SV: Array) -> npt.NDArray[np.float64]:
        """KL(reference || tested) of each token's next-token distributions, in nats, [S]."""
        lse_S, _ = _log_sum_exp(tested_SV.astype(np.float32))
        difference_SV = self._logits_SV - tested_SV
        mean_S = np.einsum("sv,sv->s", self._p_SV, difference_SV, dtype=np.float64)
        # Rounding can leave a KL of equal distributions a hair below zero.
        kl_S: npt.NDArray[np.float64] = np.maximum(mean_S + lse_S - self._lse_S, 0.0)
        return kl_S


def _log_sum_exp(logits_SV: Array) -> tuple[npt.NDArray[np.float64], Array]:
    """Logarithm of the sum of exponentials [S], and the exponentials of what is below the largest [S, V]."""
    largest_S1 = logits_SV.max(axis=1, keepdims=True)
    exponential_SV = np.exp(logits_SV - largest_S1)
    sums_S = exponential_SV.sum(axis=1, dtype=np.float64)
    return np.log(sums_S) + largest_S1[:, 0].astype(np.float64), exponential_SV
