"""What a pruned model predicts, beside the model that it was made from, on text that nothing else reads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from r1trt.errors import ValidationError
from r1trt.evaluate.models import model_from_session
from r1trt.evaluate.windows import Window
from r1trt.export.io import ExportedModel
from r1trt.progress import Progress, ignore
from r1trt.runtime.graph_session import session_from_export

FIGURES = (
    "tokens",
    "perplexity_reference",
    "perplexity_tested",
    "perplexity_increase",
    "kl_mean",
    "kl_median",
    "kl_p99",
    "kl_max",
    "agreement",
)


def accuracy_of(
    before: ExportedModel, after: ExportedModel, windows: Sequence[Window], progress: Progress = ignore
) -> dict[str, Any]:
    """Run both models, and compare.

    Args:
        before: The model that was pruned, the reference.
        after: The pruned one.
        windows: The text.
        progress: Called with ("comparing", windows done, windows).

    Returns:
        `FIGURES`, as a validation's report has them.

    Raises:
        ValidationError: The pruned model's logits are not finite.
    """
    from r1trt.evaluate.compare import compare  # needs Polygraphy

    with (
        closing(session_from_export(before.artifact)) as reference,
        closing(session_from_export(after.artifact)) as tested,
    ):
        models = model_from_session(reference), model_from_session(tested)
        figures = compare(*models, windows, progress).logits
    if figures.broken_tokens:
        raise ValidationError(
            "The pruned model's logits are not finite numbers.",
            found=f"{figures.broken_tokens} of {figures.tokens} tokens",
            fix="keep more experts",
        )
    found = figures.to_dict()
    return {name: found[name] for name in FIGURES}
