"""What quantizing costs before and after a fine-tuning, on text that nothing else reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from r1trt.evaluate.windows import Window
from r1trt.export.io import ExportedModel
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import plan_from_rules
from r1trt.progress import Progress, ignore
from r1trt.search.chain import ModelChain
from r1trt.search.measure import Measured, Measurement


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Models against the unquantized one, with every rounding of their types.

    Attributes:
        calibrated: The checkpoint as it was, with scales of a calibration.
        tuned: The fine-tuned one, with the scales of its training.
    """

    calibrated: Measured
    tuned: Measured

    @property
    def recovered_perplexity(self) -> float | None:
        """Share of what calibration alone loses; None where it loses nothing.

        Above 1 where the result is better than the unquantized model, below 0 where it is worse than before.
        """
        lost = math.log(self.calibrated.perplexity / self.calibrated.perplexity_exact)
        return math.log(self.calibrated.perplexity / self.tuned.perplexity) / lost if lost > 0 else None

    @property
    def recovered_kl(self) -> float | None:
        """The same of the KL divergence, which no better fit to the text can hide."""
        lost = self.calibrated.kl.mean
        return 1 - self.tuned.kl.mean / lost if lost > 0 else None

    @property
    def is_certain(self) -> bool:
        """Whether calibration alone loses perplexity for certain, by the interval of its difference."""
        return self.calibrated.perplexity_increase.low > 0

    def to_json(self) -> Mapping[str, Any]:
        """Plain values."""
        return {
            "tokens": self.tuned.tokens,
            "perplexity": self.tuned.perplexity_exact,
            "calibrated": asdict(self.calibrated),
            "tuned": asdict(self.tuned),
            "recovered_perplexity": self.recovered_perplexity,
            "recovered_kl": self.recovered_kl,
        }


class Judge:
    """The unquantized model on held-out text, and what is compared with it.

    Args:
        export: The checkpoint as it was.
        arch: `--arch`.
        windows: The text.
        progress: Called with (phase, done, total).
    """

    def __init__(
        self, export: ExportedModel, arch: str, windows: Sequence[Window], progress: Progress = ignore
    ) -> None:
        self._windows, self._progress = windows, progress
        self._chain = ModelChain(export.model, export.weight_base)
        exact = plan_from_rules(export.model, arch, "fp32")
        self._measurement = Measurement(self._chain, exact, windows, "held-out", progress)

    def calibrated(self, plan: PrecisionPlan) -> Measured:
        """The same weights in the types of a plan."""
        return self._measurement.measure(plan, "the calibrated plan")

    def tuned(self, export: ExportedModel, plan: PrecisionPlan) -> Measured:
        """Other weights in the types of their plan."""
        chain = ModelChain(export.model, export.weight_base)
        ids, phase = [window.input_ids for window in self._windows], "running the result on held-out text"
        states = chain.hidden_states(plan, ids, phase, self._progress)
        head = chain.session(chain.head, plan)
        return self._measurement.compare(head(state)[0] for state in states)
