"""When a user is warned, and when not."""

from __future__ import annotations

import numpy as np
import pytest

from r1trt.config import MoeConfig
from r1trt.prune.cautions import cautions
from r1trt.prune.config import Criterion
from r1trt.prune.scores import LayerScores
from r1trt.prune.selection import LayerChoice


def warned(
    experts: int, keep: int, *, tokens: float = 100.0, last: float = 0.5, criterion: Criterion = "reap"
) -> list[str]:
    """Equal experts; `last` is what each of those that are removed, the last ones, contributes."""
    contribution_E = np.where(np.arange(experts) < keep, 1.0, last)
    scores = LayerScores(layer=4, tokens_E=np.full(experts, tokens), contribution_E=contribution_E)
    moe = MoeConfig(num_experts=experts, expert_width=8, top_k=1)
    return list(cautions(moe, [LayerChoice(scores=scores, kept=tuple(range(keep)))], criterion))


@pytest.mark.parametrize(
    ("experts", "keep", "hurts"),
    [(64, 48, True), (64, 49, False), (64, 32, True), (128, 64, False), (256, 64, False), (8, 6, True)],
)
def test_few_experts_are_not_redundant(experts: int, keep: int, hurts: bool) -> None:
    found = warned(experts, keep)
    assert (len(found) == 1 and "Moonlight-16B" in found[0]) if hurts else not found


def test_scores_of_few_tokens() -> None:
    assert [
        "128 of 128 experts saw fewer than 32 tokens" in line for line in warned(128, 120, tokens=31)
    ] == [True]
    assert not warned(128, 120, tokens=32)
    assert not warned(128, 120, tokens=0, criterion="random")


def test_removed_experts_that_do_more_than_their_share() -> None:
    [line] = warned(128, 96, last=2.0)
    assert line.startswith("the experts that layer 4 loses are 25% of its experts, and made 40% of their")
