"""The result of a validation, as JSON and as a page."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from r1trt.artifacts.store import MANIFEST_FILE
from r1trt.evaluate.compare import PairFigures, StageName
from r1trt.validate.stages import TITLES, Stage
from r1trt.validate.verdict import Check

JSON_FILE = "validation.json"
HTML_FILE = "report.html"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One stage compared with another.

    Attributes:
        reference: The stage that is held to be right.
        tested: The stage that was compared with it.
        figures: What was measured.
        checks: What decides; empty where the comparison only informs.
    """

    reference: StageName
    tested: StageName
    figures: PairFigures
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every figure is within its limit."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return {
            "reference": self.reference,
            "tested": self.tested,
            "passed": self.passed,
            "checks": [check.to_dict() for check in self.checks],
            **self.figures.logits.to_dict(),
            "layers": {name: error.to_dict() for name, error in self.figures.layers.items()},
        }


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
        return [
            f"{comparison.tested} against {comparison.reference}: {check.metric} is {check.value:.4g}, "
            f"not {check.bound} {check.limit:.4g}"
            for comparison in self.comparisons
            for check in comparison.checks
            if not check.passed
        ]

    @property
    def not_executed(self) -> dict[str, str]:
        """Stages that were not run, and why."""
        return {stage.name: stage.reason for stage in self.stages if stage.runner is None}

    @property
    def decisive(self) -> Comparison:
        """The comparison that says most: the last stage against the earliest."""
        base = self.comparisons[0].reference
        return [comparison for comparison in self.comparisons if comparison.reference == base][-1]

    def summary(self) -> dict[str, Any]:
        """The few figures that a manifest carries."""
        logits = self.decisive.figures.logits
        return {
            "passed": self.passed,
            "created": self.created,
            "reference": self.decisive.reference,
            "tested": self.decisive.tested,
            "tokens": logits.tokens,
            "kl_mean": logits.kl_mean,
            "agreement": logits.agreement,
            "perplexity_reference": logits.perplexity_reference,
            "perplexity_tested": logits.perplexity_tested,
            "perplexity_increase": logits.perplexity_increase,
            "not_executed": self.not_executed,
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON; figures that are no numbers become null."""
        return _finite_dict(
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


def _finite_dict(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _without_infinities(item) for key, item in value.items()}


def _without_infinities(value: Any) -> Any:
    if isinstance(value, dict):
        return _finite_dict(value)
    if isinstance(value, list):
        return [_without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def html_from_report(report: ValidationReport) -> str:
    """Render the page: one file without anything from elsewhere."""
    import jinja2

    from r1trt.validate.plots import plots_from_report

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = files("r1trt.validate").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report, titles=TITLES, plots=plots_from_report(report)
    )


def save_report(report: ValidationReport, manifest: Mapping[str, Any]) -> Path:
    """Write `validation.json`, `report.html` and the manifest's summary into the artifact, each at once.

    Args:
        report: What to write.
        manifest: The artifact's manifest.

    Returns:
        Path of the page.
    """
    page = html_from_report(report)
    summary = _finite_dict(report.summary())
    _replace(report.directory / JSON_FILE, _json(report.to_dict()))
    _replace(report.directory / HTML_FILE, page)
    # Last, because the manifest speaks of the other two.
    _replace(report.directory / MANIFEST_FILE, _json({**manifest, "validation": summary}))
    return report.directory / HTML_FILE


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _replace(path: Path, text: str) -> None:
    """Writes a file so that there is the old one or the new one at any time."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
