"""Log-probabilities of tokens, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from r1trt.runtime.logprobs import token_logprob

LOGITS = np.random.default_rng(0).normal(0, 8, 50).astype(np.float32)
VOCAB_SIZE = 40


@pytest.mark.parametrize("top", [0, 1, 5, 20, 60])
def test_they_equal_pytorchs(top: int) -> None:
    expected = torch.log_softmax(torch.from_numpy(LOGITS.astype(np.float64)), 0)
    for token in (0, 17, 39):
        found = token_logprob(LOGITS, token, top, VOCAB_SIZE)
        assert found.token == token
        assert found.logprob == pytest.approx(float(expected[token]), abs=1e-12)
        likely = expected[:VOCAB_SIZE].sort(descending=True)
        assert [token for token, _ in found.top] == likely.indices[:top].tolist()
        assert [logprob for _, logprob in found.top] == pytest.approx(likely.values[:top].tolist(), abs=1e-12)


def test_the_most_likely_token_has_the_same_number_in_both_places() -> None:
    best = int(LOGITS[:VOCAB_SIZE].argmax())
    found = token_logprob(LOGITS, best, 3, VOCAB_SIZE)
    assert found.top[0] == (best, found.logprob)


def test_equally_likely_tokens_come_in_order() -> None:
    found = token_logprob(np.array([1, 3, 3, 3, 0], np.float32), 0, 2, 5)
    assert [token for token, _ in found.top] == [1, 2]


def test_what_cannot_come_is_minus_infinity() -> None:
    assert token_logprob(np.array([0, -np.inf], np.float32), 1, 2, 2).logprob == -np.inf
