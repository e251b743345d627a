"""Every form of the KL divergence gives the numbers of its definition."""

from __future__ import annotations

import numpy as np
from scipy.special import rel_entr, softmax

from r1trt.evaluate.divergence import Reference, kl_of_log_probabilities
from r1trt.evaluate.logits import LogitsComparison
from r1trt.runtime.logprobs import log_softmax

EXACT, TESTED = np.random.default_rng(0).normal(size=(2, 50, 300)).astype(np.float32) * 4
WANT = rel_entr(*(softmax(logits.astype(np.float64), axis=1) for logits in (EXACT, TESTED))).sum(axis=1)


def test_all_forms_are_the_same_numbers() -> None:
    comparison = LogitsComparison()
    comparison.update(EXACT, TESTED, np.full(50, -1))
    np.testing.assert_allclose(comparison.kl_T, WANT, rtol=1e-9)
    np.testing.assert_allclose(
        kl_of_log_probabilities(log_softmax(EXACT), log_softmax(TESTED)), WANT, rtol=1e-9
    )
    np.testing.assert_allclose(Reference(EXACT).kl(TESTED), WANT, rtol=1e-4, atol=1e-6)


def test_equal_predictions_do_not_diverge() -> None:
    np.testing.assert_allclose(Reference(EXACT).kl(EXACT), 0.0, atol=1e-5)
    assert not kl_of_log_probabilities(log_softmax(EXACT), log_softmax(EXACT)).any()


def test_what_is_impossible_in_both_adds_nothing() -> None:
    exact, tested = EXACT.copy(), TESTED.copy()
    exact[:, 7] = tested[:, 7] = -np.inf
    kept = np.arange(300) != 7
    np.testing.assert_allclose(
        kl_of_log_probabilities(log_softmax(exact), log_softmax(tested)),
        kl_of_log_probabilities(log_softmax(exact[:, kept]), log_softmax(tested[:, kept])),
        rtol=1e-9,
    )
