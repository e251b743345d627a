from __future__ import annotations

import numpy as np
import pytest

from r1trt.errors import ConfigError
from r1trt.runtime.sampling import Sampler, SamplingConfig, token_probabilities

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32))

# Options -> probabilities, worked out by hand.
CASES = {
    "temperature 1": (SamplingConfig(temperature=1.0), [0.1, 0.4, 0.05, 0.3, 0.15]),
    "temperature 0.5 squares": (
        SamplingConfig(temperature=0.5),
        np.array([0.01, 0.16, 0.0025, 0.09, 0.0225]) / 0.285,
    ),
    "top_k": (SamplingConfig(temperature=1.0, top_k=2), [0, 4 / 7, 0, 3 / 7, 0]),
    "top_k above the vocabulary": (SamplingConfig(temperature=1.0, top_k=9), [0.1, 0.4, 0.05, 0.3, 0.15]),
    "top_p keeps what crosses it": (SamplingConfig(temperature=1.0, top_p=0.5), [0, 4 / 7, 0, 3 / 7, 0]),
    "top_p keeps one at least": (SamplingConfig(temperature=1.0, top_p=1e-6), [0, 1, 0, 0, 0]),
    "top_k before top_p": (
        SamplingConfig(temperature=1.0, top_k=3, top_p=0.8),
        [0, 4 / 7, 0, 3 / 7, 0],
    ),
    "tiny temperature": (SamplingConfig(temperature=1e-6), [0, 1, 0, 0, 0]),
}


@pytest.mark.parametrize("case", CASES)
def test_token_probabilities(case: str) -> None:
    config, expected = CASES[case]
    np.testing.assert_allclose(token_probabilities(LOGITS, config), expected, atol=1e-6)


def test_temperature_0_takes_the_likeliest() -> None:
    assert Sampler(SamplingConfig()).sample(LOGITS) == 1


def test_a_seed_repeats_and_frequencies_follow() -> None:
    config = SamplingConfig(temperature=1.0, seed=5)
    first, second = Sampler(config), Sampler(config)
    draws = [first.sample(LOGITS) for _ in range(4000)]
    assert draws == [second.sample(LOGITS) for _ in range(4000)]
    other = Sampler(SamplingConfig(temperature=1.0, seed=6))
    assert draws != [other.sample(LOGITS) for _ in range(4000)]
    frequencies = np.bincount(draws, minlength=5) / len(draws)
    np.testing.assert_allclose(frequencies, np.exp(LOGITS), atol=0.03)


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": np.nan}, {"top_k": -1}, {"top_p": 0.0}, {"seed": -1}]
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        SamplingConfig(**options)


@pytest.mark.parametrize("logits", [[np.nan, 1.0], [-np.inf, -np.inf]])
def test_logits_that_are_not_numbers(logits: list[float]) -> None:
    with pytest.raises(ConfigError, match="not finite numbers"):
        Sampler(SamplingConfig()).sample(np.array(logits))
