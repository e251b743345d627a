"""What a whole plan really costs on text, with the roundings of its types, against the model in FP32.

Legend: S tokens of one window, N tokens in all, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from r1trt.evaluate.divergence import kl_of_log_probabilities
from r1trt.evaluate.windows import Window
from r1trt.precision.plan import PrecisionPlan
from r1trt.progress import Progress, ignore
from r1trt.runtime.logprobs import log_softmax
from r1trt.search.chain import Array, ModelChain
from r1trt.search.damage import BROKEN

BLOCK = 64
"""Neighbouring tokens that count as one observation of an interval: their differences hang together."""
_MOST_NATS = 600.0  # whose exponential is a number


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its 95 % confidence interval, from paired tokens."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A plan against FP32 on the same tokens.

    Attributes:
        tokens: How many.
        kl: KL divergence of the next token, in nats.
        perplexity_increase: Relative, 0.01 = 1 %.
        agreement: Share of tokens after which both find the same next one the most likely.
        perplexity: The plan's.
        perplexity_exact: FP32's.
    """

    tokens: int
    kl: Interval
    perplexity_increase: Interval
    agreement: float
    perplexity: float
    perplexity_exact: float


class Measurement:
    """Text, and what the model in FP32 makes of it: computed once, for any number of plans.

    Args:
        chain: The model.
        exact: Its plan in FP32.
        windows: The text.
        text: What progress calls it.
        progress: Called with (phase, done, total).
    """

    def __init__(
        self,
        chain: ModelChain,
        exact: PrecisionPlan,
        windows: Sequence[Window],
        text: str,
        progress: Progress = ignore,
    ) -> None:
        self._chain, self._windows, self._text, self._progress = chain, windows, text, progress
        self._ids = [window.input_ids for window in windows]
        self._exact_head = chain.session(chain.head, exact)
        self._exact_states = self._run(exact, "FP32")

    def _run(self, plan: PrecisionPlan, name: str) -> list[Array]:
        phase = f"running {name} on {self._text} text"
        return self._chain.hidden_states(plan, self._ids, phase, self._progress)

    def measure(self, plan: PrecisionPlan, name: str) -> Measured:
        """Run a plan with all its scales, and compare; `name` is what progress calls it."""
        states = self._run(plan, name)
        head = self._chain.session(self._chain.head, plan)
        return self.compare(head(state)[0] for state in states)

    def compare(self, tested: Iterable[Array]) -> Measured:
        """What a model costs that was run elsewhere: its logits [S, V], for each window in turn."""
        pieces = [
            _compared(self._exact_head(exact)[0], tested_SV, window.targets)
            for exact, tested_SV, window in zip(self._exact_states, tested, self._windows, strict=True)
        ]
        kl_N, agree_N, exact_N, tested_N = (np.concatenate(part) for part in zip(*pieces, strict=True))
        known_N = np.concatenate([window.targets >= 0 for window in self._windows])
        difference = _interval(tested_N[known_N] - exact_N[known_N])
        return Measured(
            tokens=len(kl_N),
            kl=_interval(kl_N),
            perplexity_increase=Interval(
                mean=math.expm1(min(difference.mean, _MOST_NATS)),
                low=math.expm1(min(difference.low, _MOST_NATS)),
                high=math.expm1(min(difference.high, _MOST_NATS)),
            ),
            agreement=float(agree_N.mean()),
            perplexity=math.exp(min(tested_N[known_N].mean(), _MOST_NATS)),
            perplexity_exact=math.exp(min(exact_N[known_N].mean(), _MOST_NATS)),
        )


def _compared(exact_SV: Array, tested_SV: Array, target_S: Array) -> tuple[Array, Array, Array, Array]:
    """KL, agreement and both negative log-likelihoods of each token; 0 where the next one is unknown."""
    log_p_SV, log_q_SV = log_softmax(exact_SV), log_softmax(tested_SV)
    kl_S = kl_of_log_probabilities(log_p_SV, log_q_SV)
    rows_S, known_S = np.arange(len(target_S)), target_S >= 0
    likelihoods = [np.where(known_S, -log_SV[rows_S, target_S], 0.0) for log_SV in (log_p_SV, log_q_SV)]
    # What is not finite is as bad as can be, and still a number.
    kl_S = np.nan_to_num(kl_S, nan=BROKEN, posinf=BROKEN)
    likelihoods = [np.nan_to_num(item, nan=BROKEN, posinf=BROKEN) for item in likelihoods]
    return kl_S, exact_SV.argmax(axis=1) == tested_SV.argmax(axis=1), likelihoods[0], likelihoods[1]


def _interval(values_N: npt.NDArray[np.float64]) -> Interval:
    """Of the mean, from means of blocks; a text of few blocks has a wide one."""
    mean = float(values_N.mean())
    blocks = max(len(values_N) // BLOCK, 2)
    means = np.array([block.mean() for block in np.array_split(values_N, blocks)])
    # NOTES: SciPy takes half a second to import.
    from scipy.stats import t

    half = float(t.ppf(0.975, blocks - 1)) * float(means.std(ddof=1)) / math.sqrt(blocks)
    return Interval(mean=mean, low=mean - half, high=mean + half)
