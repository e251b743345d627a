"""The result of a validation, as plain values and as lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1trt.artifacts.validation import SCHEMA, ValidationSummary
from r1trt.evaluate.verdict import Comparison
from r1trt.validate.stages import TITLES, Stage


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """What a validation found.

    Attributes:
        directory: The artifact.
        model_name: The model's name.
        facts: Architecture, precision, text, versions and the like, for the page's head.
        stages: All stages, those that could not be run included.
        comparisons: What was compared.
        created: Time, in UTC.
        seconds: How long it took.
    """

    directory: Path
    model_name: str
    facts: Mapping[str, str]
    stages: tuple[Stage, ...]
    comparisons: tuple[Comparison, ...]
    created: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every check of every comparison passed."""
        return all(comparison.passed for comparison in self.comparisons)

    @property
    def failures(self) -> list[str]:
        """One sentence for every figure beyond its limit."""
        return [failure for comparison in self.comparisons for failure in comparison.failures]

    @property
    def not_executed(self) -> dict[str, str]:
        """Stages that were not run, and why."""
        return {stage.name: stage.reason for stage in self.stages if stage.opened is None}

    @property
    def decisive(self) -> Comparison:
        """The comparison that says most: the last stage against the earliest."""
        base = self.comparisons[0].reference
        return [comparison for comparison in self.comparisons if comparison.reference == base][-1]

    def summary(self) -> ValidationSummary:
        """The few figures that say most."""
        logits = self.decisive.figures.logits
        return ValidationSummary(
            passed=self.passed,
            created=self.created,
            reference=self.decisive.reference,
            tested=self.decisive.tested,
            tokens=logits.tokens,
            kl_mean=_finite(logits.kl_mean),
            agreement=_finite(logits.agreement),
            perplexity_reference=_finite(logits.perplexity_reference),
            perplexity_tested=_finite(logits.perplexity_tested),
            perplexity_increase=_finite(logits.perplexity_increase),
            not_executed=self.not_executed,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON; figures that are not finite numbers become null."""
        report: dict[str, Any] = _finite(
            {
                "schema": SCHEMA,
                "passed": self.passed,
                "model_name": self.model_name,
                "created": self.created,
                "seconds": self.seconds,
                "facts": dict(self.facts),
                "failures": self.failures,
                "stages": [
                    {"name": stage.name, "what": TITLES[stage.name], "not_executed": stage.reason or None}
                    for stage in self.stages
                ],
                "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            }
        )
        return report

    def lines(self) -> list[str]:
        """A few lines for a terminal."""
        lines = [f"{'passed' if self.passed else 'FAILED'}: {self.directory}"]
        for comparison in self.comparisons:
            logits = comparison.figures.logits
            lines.append(
                f"  {comparison.tested} against {comparison.reference}: KL {logits.kl_mean:.3g}, agreement "
                f"{logits.agreement:.2%}, perplexity {logits.perplexity_tested:.4g} "
                f"({logits.perplexity_increase:+.2%}), largest logit error {logits.error.max_relative:.2g}"
            )
        lines += [f"  not executed: {name} ({reason})" for name, reason in self.not_executed.items()]
        return [*lines, *(f"  missed: {failure}" for failure in self.failures)]


def _finite(value: Any) -> Any:
    """Plain values with None in the place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
