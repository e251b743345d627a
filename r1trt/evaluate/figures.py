"""What two models' outputs amount to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from r1trt.evaluate.logits import LogitsComparison
from r1trt.evaluate.models import LOGITS, Outputs
from r1trt.evaluate.tensor_error import TensorError


@dataclass(kw_only=True)
class PairFigures:
    """Figures of a tested model against its reference, gathered window by window.

    Attributes:
        logits: Predictions and logits.
        layers: Error of each layer's result, by its name; empty where one of the models has none.
    """

    logits: LogitsComparison = field(default_factory=LogitsComparison)
    layers: dict[str, TensorError] = field(default_factory=dict)

    def update(self, reference: Outputs, tested: Outputs, targets: npt.NDArray[np.int64]) -> None:
        """Adds one window.

        Args:
            reference: The reference's outputs.
            tested: The tested model's.
            targets: The token that really came next, after each; -1 where it is unknown.
        """
        self.logits.update(reference[LOGITS], tested[LOGITS], targets)
        for name in reference:
            if name != LOGITS and name in tested:
                self.layers.setdefault(name, TensorError()).update(reference[name], tested[name])

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures that a report shows, as plain values."""
        return {
            **self.logits.to_dict(),
            "layers": {name: error.to_dict() for name, error in self.layers.items()},
        }
