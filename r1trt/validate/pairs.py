"""Which stages are compared with which, and what each comparison is held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from r1trt.evaluate.logits import LogitsComparison
from r1trt.evaluate.verdict import Check, logits_within, predictions_within
from r1trt.precision.plan import Thresholds

StageName = Literal["checkpoint", "exported", "typed", "cpu", "engine"]
StagePair = tuple[StageName, StageName]


def pairs_to_compare(executed: Sequence[StageName]) -> list[StagePair]:
    """Pairs to compare: all stages with the earliest, and each with the one that it was made from."""
    base = executed[0]
    pairs = [(base, tested) for tested in executed[1:]]
    made_from: list[StagePair] = [
        ("exported", "typed"),
        ("exported", "cpu"),
        ("typed", "engine"),
    ]
    pairs += [pair for pair in made_from if set(pair) <= set(executed) and pair not in pairs]
    return pairs


def checks_of_pair(
    pair: StagePair,
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
