"""A pruning's page: what it came to, and every expert's scores as pictures."""

from __future__ import annotations

from r1trt.page import rendered_page
from r1trt.prune.picture import picture_of_experts
from r1trt.prune.result import PruneResult


def page_of_result(result: PruneResult) -> str:
    """Render the page: one file without anything from elsewhere."""
    choices, groups = result.choices, int(result.facts["groups"])
    pictures = {
        "Saliency": picture_of_experts(choices, groups, lambda scores: scores.saliency_E, "saliency"),
        "Tokens": picture_of_experts(choices, groups, lambda scores: scores.tokens_E, "tokens"),
    }
    return rendered_page("r1trt.prune", result=result, pictures=pictures)
