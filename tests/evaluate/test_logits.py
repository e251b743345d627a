"""Figures of predictions equal their definitions, however the text is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest

from r1trt.evaluate.logits import KL_BIN_EDGES, LogitsComparison, kl_histogram

T, V = 100, 37


def logits(seed: int, scale: float = 3.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((T, V))).astype(np.float32)


def compared(
    reference: np.ndarray, tested: np.ndarray, targets: np.ndarray, piece: int = T
) -> LogitsComparison:
    comparison = LogitsComparison()
    for start in range(0, len(targets), piece):
        rows = slice(start, start + piece)
        comparison.update(reference[rows], tested[rows], targets[rows])
    return comparison


@pytest.mark.parametrize("piece", [1, 7, 33, T])
def test_figures_equal_their_definitions(piece: int) -> None:
    reference, tested = logits(0), logits(0) + logits(1, 0.3)
    targets = np.random.default_rng(2).integers(0, V, T)
    p = np.exp(reference.astype(np.float64)) / np.exp(reference.astype(np.float64)).sum(1, keepdims=True)
    q = np.exp(tested.astype(np.float64)) / np.exp(tested.astype(np.float64)).sum(1, keepdims=True)
    got = compared(reference, tested, targets, piece)
    rows = np.arange(T)
    want = {
        "kl_mean": (p * np.log(p / q)).sum(1).mean(),
        "agreement": (p.argmax(1) == q.argmax(1)).mean(),
        "perplexity_reference": math.exp(-np.log(p[rows, targets]).mean()),
        "perplexity_tested": math.exp(-np.log(q[rows, targets]).mean()),
    }
    for name, value in want.items():
        assert getattr(got, name) == pytest.approx(value, rel=1e-9), name
    assert got.perplexity_increase == pytest.approx(
        want["perplexity_tested"] / want["perplexity_reference"] - 1
    )
    difference = tested.astype(np.float64) - reference
    assert got.error.max_absolute == np.abs(difference).max()
    assert got.error.max_relative == pytest.approx(np.abs(difference).max() / np.abs(reference).max())
    norm = np.linalg.norm(difference) / np.linalg.norm(reference.astype(np.float64))
    assert got.error.relative_rms == pytest.approx(norm)


def test_equal_logits_are_equal() -> None:
    got = compared(logits(0), logits(0), np.zeros(T, np.int64))
    assert (got.kl_mean, got.agreement, got.perplexity_increase, got.error.max_relative) == (0, 1, 0, 0)


def test_shifted_logits_predict_the_same() -> None:
    got = compared(logits(0), logits(0) + 5, np.zeros(T, np.int64))
    assert got.kl_mean < 1e-9 and got.agreement == 1 and got.error.max_absolute == pytest.approx(5, rel=1e-5)


def test_uniform_logits_have_the_vocabulary_as_perplexity() -> None:
    got = compared(np.zeros((T, V), np.float32), np.zeros((T, V), np.float32), np.zeros(T, np.int64))
    assert got.perplexity_reference == pytest.approx(V)


def test_unknown_targets_count_in_no_perplexity() -> None:
    targets = np.random.default_rng(2).integers(0, V, T)
    half = np.where(np.arange(T) < 50, targets, -1)
    got = compared(logits(0), logits(1), half)
    want = compared(logits(0)[:50], logits(1)[:50], targets[:50])
    assert got.perplexity_tested == want.perplexity_tested
    assert got.tokens == T and len(got.kl_T) == T


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(value: float) -> None:
    tested = logits(0)
    tested[3, 5] = value
    got = compared(logits(0), tested, np.zeros(T, np.int64))
    assert got.broken_tokens == 1 and got.error.not_finite == 1
    assert got.agreement == (T - 1) / T
    assert got.kl_mean == 0


def test_impossible_tokens_do_not_spoil_the_divergence() -> None:
    reference = np.array([[0.0, -np.inf, 0.0]], np.float32)
    got = compared(reference, np.array([[0.0, -50.0, 0.0]], np.float32), np.array([0]))
    assert 0 <= got.kl_mean < 1e-12


def test_comparing_nothing_is_not_a_success() -> None:
    got = LogitsComparison()
    assert got.kl_mean == math.inf and got.agreement == 0 and got.perplexity_increase == math.inf


def test_histogram_bins() -> None:
    values = np.array([0.0, 1e-12, 1e-9, 1.1e-9, 9.0, 11.0])
    counts = kl_histogram(values)
    assert len(counts) == len(KL_BIN_EDGES) + 1 and sum(counts) == len(values)
    assert counts[0] == 3 and counts[1] == 1 and counts[-2] == 1 and counts[-1] == 1
