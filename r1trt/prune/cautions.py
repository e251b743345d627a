"""What a user should know before trusting a pruned model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from r1trt.calibrate.rare_experts import MIN_EXPERT_TOKENS
from r1trt.config import MoeConfig
from r1trt.prune.config import Criterion
from r1trt.prune.selection import LayerChoice

FEW_EXPERTS, MUCH = 64, 0.25
"""Of models with so few experts, public results of REAP have some that lose most beyond this share."""
_PUBLIC = (
    "few experts have little to spare: without 25 % of its 64, Moonlight-16B (V3's architecture) keeps 80 % "
    "of its GSM8K score, and 17 % without 50 %"
)
_ROUNDING = 1e-9


def cautions(moe: MoeConfig, choices: Sequence[LayerChoice], criterion: Criterion) -> Iterator[str]:
    """Each in one line.

    Args:
        moe: The layers' experts.
        choices: Which of them stay.
        criterion: What chose them.
    """
    removed = 1 - len(choices[0].kept) / moe.num_experts
    if moe.num_experts <= FEW_EXPERTS and removed >= MUCH - _ROUNDING:
        yield f"{removed:.0%} of {moe.num_experts} experts a layer are removed, and {_PUBLIC}"
    rare = sum(int((choice.scores.tokens_E < MIN_EXPERT_TOKENS).sum()) for choice in choices)
    if rare and criterion != "random":
        yield (
            f"{rare} of {moe.num_experts * len(choices)} experts saw fewer than {MIN_EXPERT_TOKENS} tokens: "
            "their scores say little; score on more --calibration-tokens of a longer --calibration"
        )
    yield from _uneven(choices)


def _uneven(choices: Sequence[LayerChoice]) -> Iterator[str]:
    """Removed experts that did more than their share."""
    worst = max(choices, key=lambda choice: choice.removed_contribution)
    share = len(worst.removed) / len(worst.scores.tokens_E)
    if worst.removed_contribution > share:
        yield (
            f"the experts that layer {worst.scores.layer} loses are {share:.0%} of its experts, and made "
            f"{worst.removed_contribution:.0%} of their contributions"
        )
