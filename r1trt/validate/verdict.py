"""Thresholds against figures: what passes, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from r1trt.evaluate.compare import Pair, StageName
from r1trt.evaluate.metrics import LogitsComparison
from r1trt.precision.plan import Thresholds


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure against its limit.

    Attributes:
        metric: What was measured.
        value: The figure.
        limit: What it is held to.
        bound: Whether the limit is the largest or the smallest value that passes.
    """

    metric: str
    value: float
    limit: float
    bound: Literal["at most", "at least"]

    @property
    def passed(self) -> bool:
        """Whether the figure is within its limit; a figure that is no number is not."""
        return self.value <= self.limit if self.bound == "at most" else self.value >= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return {
            "metric": self.metric,
            "value": self.value,
            "bound": self.bound,
            "limit": self.limit,
            "passed": self.passed,
        }


def predictions_within(thresholds: Thresholds, figures: LogitsComparison) -> list[Check]:
    """What a user notices: KL divergence, perplexity, next-token agreement."""
    return [
        _finite(figures),
        Check(metric="KL divergence, mean", value=figures.kl_mean, limit=thresholds.kl_max, bound="at most"),
        Check(
            metric="perplexity increase",
            value=figures.perplexity_increase,
            limit=thresholds.perplexity_increase_max,
            bound="at most",
        ),
        Check(
            metric="next-token agreement",
            value=figures.agreement,
            limit=thresholds.agreement_min,
            bound="at least",
        ),
    ]


def logits_within(thresholds: Thresholds, figures: LogitsComparison) -> list[Check]:
    """The same arithmetic in two programs: the logits themselves."""
    return [
        _finite(figures),
        Check(
            metric="largest logit error by largest logit",
            value=figures.error.max_relative,
            limit=thresholds.logits_max_relative_error,
            bound="at most",
        ),
    ]


def _finite(figures: LogitsComparison) -> Check:
    return Check(
        metric="tokens with logits that are not numbers",
        value=figures.broken_tokens,
        limit=0,
        bound="at most",
    )


def pairs_to_compare(executed: Sequence[StageName]) -> list[Pair]:
    """Pairs to compare: all stages with the earliest, and each with the one that it was made from."""
    base = executed[0]
    pairs = [(base, tested) for tested in executed[1:]]
    made_from: list[Pair] = [
        ("exported", "typed"),
        ("exported", "cpu"),
        ("typed", "engine"),
    ]
    pairs += [pair for pair in made_from if set(pair) <= set(executed) and pair not in pairs]
    return pairs


def checks_of_pair(
    pair: Pair,
    figures: LogitsComparison,
    *,
    base: StageName,
    plan: Thresholds,
    exact: Thresholds,
    continuous: bool,
) -> list[Check]:
    """What one comparison is held to.

    Args:
        pair: Reference and tested stage.
        figures: What was measured.
        base: The earliest stage that was run.
        plan: The precision plan's thresholds.
        exact: Those of FP32 against FP32.
        continuous: Whether the model's outputs depend continuously on its arithmetic. A router does not: a
            rounding may choose another expert, so that the largest error says nothing.
    """
    reference, tested = pair
    checks: list[Check] = []
    if reference == base:
        checks += predictions_within(exact if tested == "exported" else plan, figures)
    same_arithmetic = pair in (("checkpoint", "exported"), ("exported", "cpu"), ("typed", "engine"))
    if same_arithmetic and continuous:
        checks += logits_within(plan if tested != "exported" else exact, figures)
    # Both lists begin with the same check.
    return list(dict.fromkeys(checks))
