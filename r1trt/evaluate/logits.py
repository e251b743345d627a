"""What a user notices of a model's error: its predictions, gathered piece by piece.

Legend: T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from r1trt.evaluate.divergence import kl_of_log_probabilities
from r1trt.evaluate.tensor_error import ROWS, FloatArray, TensorError
from r1trt.runtime.logprobs import log_softmax

IntArray = npt.NDArray[np.int64]

# Upper ends of the histogram's bins, in nats; one more bin holds what is above.
KL_BIN_EDGES: tuple[float, ...] = tuple(10.0**exponent for exponent in np.arange(-9.0, 1.25, 0.25).tolist())


class LogitsComparison:
    """What a user notices of a model's error: its predictions.

    A token whose tested logits are not all finite counts as a disagreement, and is left out of the means; a
    model with such tokens fails whatever its means are.
    """

    def __init__(self) -> None:
        self.error = TensorError()
        self.tokens = 0
        self.broken_tokens = 0
        self._agreeing = 0
        self._predicted = 0
        self._nll_reference = 0.0
        self._nll_tested = 0.0
        self._kl_pieces: list[npt.NDArray[np.float64]] = []

    def update(self, reference_TV: FloatArray, tested_TV: FloatArray, target_T: IntArray) -> None:
        """Adds the logits of some tokens, and which token really came next (-1: unknown, at a text's end)."""
        self.error.update(reference_TV, tested_TV)
        for start in range(0, len(target_T), ROWS):
            rows = slice(start, start + ROWS)
            self._update_rows(reference_TV[rows], tested_TV[rows], target_T[rows])

    def _update_rows(self, reference_TV: FloatArray, tested_TV: FloatArray, target_T: IntArray) -> None:
        finite_T = np.isfinite(tested_TV).all(axis=1)
        self.tokens += len(target_T)
        self.broken_tokens += int(np.count_nonzero(~finite_T))
        reference_TV, tested_TV, target_T = reference_TV[finite_T], tested_TV[finite_T], target_T[finite_T]
        self._agreeing += int(np.count_nonzero(reference_TV.argmax(axis=1) == tested_TV.argmax(axis=1)))
        log_p_TV, log_q_TV = log_softmax(reference_TV), log_softmax(tested_TV)
        self._kl_pieces.append(kl_of_log_probabilities(log_p_TV, log_q_TV))
        known = np.flatnonzero(target_T >= 0)
        self._predicted += len(known)
        self._nll_reference -= float(log_p_TV[known, target_T[known]].sum())
        self._nll_tested -= float(log_q_TV[known, target_T[known]].sum())

    @property
    def kl_T(self) -> npt.NDArray[np.float64]:
        """KL(reference || tested) of each token's next-token distributions, in nats."""
        return np.concatenate([np.empty(0), *self._kl_pieces])

    @property
    def kl_mean(self) -> float:
        """Mean KL divergence, in nats."""
        return float(self.kl_T.mean()) if self.kl_T.size else math.inf

    @property
    def agreement(self) -> float:
        """Share of tokens after which both find the same next token the most likely."""
        return self._agreeing / self.tokens if self.tokens else 0.0

    @property
    def perplexity_reference(self) -> float:
        """The reference's perplexity on the text."""
        return _perplexity(self._nll_reference, self._predicted)

    @property
    def perplexity_tested(self) -> float:
        """The tested model's perplexity on the text."""
        return _perplexity(self._nll_tested, self._predicted)

    @property
    def perplexity_increase(self) -> float:
        """Relative increase of perplexity; below 0 where the tested model predicts better."""
        if not self._predicted:
            return math.inf
        return math.expm1((self._nll_tested - self._nll_reference) / self._predicted)

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures that a report shows."""
        kl_T = self.kl_T
        return {
            "tokens": self.tokens,
            "broken_tokens": self.broken_tokens,
            "kl_mean": self.kl_mean,
            "kl_median": float(np.median(kl_T)) if kl_T.size else math.inf,
            "kl_p99": float(np.quantile(kl_T, 0.99)) if kl_T.size else math.inf,
            "kl_max": float(kl_T.max(initial=0.0)),
            "agreement": self.agreement,
            "perplexity_reference": self.perplexity_reference,
            "perplexity_tested": self.perplexity_tested,
            "perplexity_increase": self.perplexity_increase,
            "logits": self.error.to_dict(),
            "kl_histogram": kl_histogram(kl_T),
        }


def _perplexity(negative_log_likelihood: float, tokens: int) -> float:
    if not tokens:
        return math.inf
    mean = negative_log_likelihood / tokens
    return math.exp(mean) if mean < 700 else math.inf


def kl_histogram(kl_T: npt.NDArray[np.float64]) -> list[int]:
    """Tokens in each bin of `KL_BIN_EDGES`, and one more for what is above the last edge."""
    bins_T = np.searchsorted(np.asarray(KL_BIN_EDGES), kl_T, side="left")
    counts: list[int] = np.bincount(bins_T, minlength=len(KL_BIN_EDGES) + 1).tolist()
    return counts
