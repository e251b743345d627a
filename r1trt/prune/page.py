"""A pruning's page: what it came to, and every expert's scores as pictures."""

from __future__ import annotations

from importlib.resources import files

import jinja2

from r1trt.prune.picture import picture_of_experts
from r1trt.prune.result import PruneResult


def page_of_result(result: PruneResult) -> str:
    """Render the page: one file without anything from elsewhere."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = files("r1trt.prune").joinpath("report.html.jinja").read_text(encoding="utf-8")
    choices, groups = result.choices, int(result.facts["groups"])
    pictures = {
        "Saliency": picture_of_experts(choices, groups, lambda scores: scores.saliency_E, "saliency"),
        "Tokens": picture_of_experts(choices, groups, lambda scores: scores.tokens_E, "tokens"),
    }
    return environment.from_string(source).render(result=result, pictures=pictures)
