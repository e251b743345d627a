"""One model judged by another, on text."""

from __future__ import annotations

from collections.abc import Sequence

from r1trt.evaluate.compare import compare
from r1trt.evaluate.models import Model
from r1trt.evaluate.verdict import Comparison, predictions_within
from r1trt.evaluate.windows import Window
from r1trt.precision.plan import Thresholds
from r1trt.progress import Progress, ignore


def evaluate_model(
    reference: Model,
    tested: Model,
    windows: Sequence[Window],
    thresholds: Thresholds,
    progress: Progress = ignore,
) -> Comparison:
    """Compare a model with its reference and judge it by its predictions.

    Args:
        reference: The model that is held to be right.
        tested: The model to judge: of another precision plan, pruned, fine-tuned.
        windows: The text.
        thresholds: What it may lose.
        progress: Called with ("comparing", windows done, windows).
    """
    figures = compare(reference, tested, windows, progress)
    checks = predictions_within(thresholds, figures.logits)
    return Comparison(reference="reference", tested="tested", figures=figures, checks=tuple(checks))
