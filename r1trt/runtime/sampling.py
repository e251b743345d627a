"""Choosing the next token from its logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from r1trt.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k: Keep this many of the most likely tokens; 0 keeps all.
        top_p: Keep the fewest most likely tokens whose probabilities sum to at least this; 1 keeps all.
        seed: Seed of the random numbers.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        for name, value, valid, expected in (
            ("temperature", self.temperature, 0.0 <= self.temperature < np.inf, "0 or more, and finite"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (off) or more"),
            ("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "above 0, at most 1"),
            ("seed", self.seed, self.seed >= 0, "0 or more"),
        ):
            if not valid:
                raise ConfigError(
                    f"The sampling option {name} is out of range.", found=value, expected=expected
                )

    @property
    def text(self) -> str:
        """How tokens are chosen, in words; without the seed."""
        if self.temperature == 0.0:
            return "temperature 0"
        limits = [f"top-k {self.top_k}"] if self.top_k else []
        limits += [f"top-p {self.top_p:g}"] if self.top_p < 1.0 else []
        return ", ".join([f"temperature {self.temperature:g}", *limits])


class Sampler:
    """Draws tokens; two samplers with one seed draw the same.

    Args:
        config: How.
    """

    def __init__(self, config: SamplingConfig) -> None:
        self._config = config
        self._generator = np.random.default_rng(config.seed)

    def sample(self, logits_V: npt.NDArray[np.floating]) -> int:
        """Returns a token id.

        Raises:
            ConfigError: No logit is finite, so that there is nothing to choose from.
        """
        require_usable_logits(logits_V)
        if self._config.temperature == 0.0:
            return int(np.argmax(logits_V))
        probability_V = token_probabilities(logits_V, self._config)
        return int(self._generator.choice(len(probability_V), p=probability_V))


def require_usable_logits(logits: npt.NDArray[np.floating]) -> None:
    """Raises ConfigError where no logit is finite, or one is NaN: there is nothing to choose from."""
    if np.isnan(logits).any() or not np.isfinite(logits).any():
        raise ConfigError(
            "The model's logits are not finite numbers.",
            found="NaN, or nothing finite",
            fix="run `r1trt validate` on the engine",
        )


def token_probabilities(
    logits_V: npt.NDArray[np.floating], config: SamplingConfig
) -> npt.NDArray[np.float64]:
    """Probabilities `[V]` after temperature, then top-k, then top-p; the temperature is above 0."""
    scaled_V = logits_V.astype(np.float64)
    # Subtracted before the division, so that a tiny temperature overflows to -inf and not to NaN.
    probability_V: npt.NDArray[np.float64] = np.exp((scaled_V - scaled_V.max()) / config.temperature)
    if 0 < config.top_k < len(probability_V):
        order = np.argsort(-probability_V, kind="stable")
        probability_V[order[config.top_k :]] = 0.0
    probability_V /= probability_V.sum()
    if config.top_p < 1.0:
        order = np.argsort(-probability_V, kind="stable")
        before = np.cumsum(probability_V[order]) - probability_V[order]
        # The most likely token always has nothing before it, so one token at least is kept.
        probability_V[order[before >= config.top_p]] = 0.0
        probability_V /= probability_V.sum()
    return probability_V
