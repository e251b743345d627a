"""Thresholds against figures: what passes, and by how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from r1trt.evaluate.figures import PairFigures
from r1trt.evaluate.logits import LogitsComparison
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
        """Whether the figure is within its limit; NaN is not."""
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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model judged against another.

    Attributes:
        reference: Name of the model that is held to be right.
        tested: Name of the model that was compared with it.
        figures: What was measured.
        checks: What decides; empty where the comparison only informs.
    """

    reference: str
    tested: str
    figures: PairFigures
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every figure is within its limit."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[str]:
        """One sentence for every figure beyond its limit."""
        return [
            f"{self.tested} against {self.reference}: {check.metric} is {check.value:.4g}, "
            f"not {check.bound} {check.limit:.4g}"
            for check in self.checks
            if not check.passed
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return {
            "reference": self.reference,
            "tested": self.tested,
            "passed": self.passed,
            "checks": [check.to_dict() for check in self.checks],
            **self.figures.to_dict(),
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
            metric="largest logit error, relative to the largest logit",
            value=figures.error.max_relative,
            limit=thresholds.logits_max_relative_error,
            bound="at most",
        ),
    ]


def _finite(figures: LogitsComparison) -> Check:
    return Check(
        metric="tokens with logits that are not finite numbers",
        value=figures.broken_tokens,
        limit=0,
        bound="at most",
    )
