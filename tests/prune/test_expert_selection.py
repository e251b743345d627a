"""How many experts stay and which, by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r1trt.config import MoeConfig
from r1trt.errors import ConfigError, UsageError
from r1trt.prune.config import PruneConfig
from r1trt.prune.scores import LayerScores
from r1trt.prune.selection import LayerChoice, choose_experts, kept_count

R1 = MoeConfig(
    num_experts=256, expert_width=2048, scoring="sigmoid", topk_method="noaux_tc", top_k=8, n_group=8,
    topk_group=4,
)  # fmt: skip
V2 = MoeConfig(
    num_experts=12, expert_width=8, topk_method="group_limited_greedy", top_k=6, n_group=6, topk_group=3
)
PLAIN = MoeConfig(num_experts=8, expert_width=8, top_k=2)


def asked(**options: Any) -> PruneConfig:
    return PruneConfig(checkpoint=Path("checkpoint"), output=Path("output"), **options)


def chosen(tokens: list[float], contribution: list[float], groups: int, keep: int, **options: Any) -> Any:
    scores = LayerScores(layer=3, tokens_E=np.array(tokens), contribution_E=np.array(contribution))
    moe = MoeConfig(
        num_experts=len(tokens), expert_width=8, top_k=1, n_group=groups,
        topk_method="group_limited_greedy" if groups > 1 else "greedy",
    )  # fmt: skip
    [choice] = choose_experts([scores], moe, keep, asked(keep=keep, **options))
    return choice


@pytest.mark.parametrize(
    ("moe", "options", "count"),
    [
        (PLAIN, {"keep": 6}, 6),
        (PLAIN, {"remove": 0.25}, 6),
        (PLAIN, {"remove": 0.3}, 6),  # 2.4 experts: at most that share
        (MoeConfig(num_experts=10, expert_width=8), {"remove": 0.3}, 7),  # 0.3 * 10 is not 3.0 exactly
        (R1, {"remove": 0.5}, 128),
        (R1, {"keep": 16}, 16),
    ],
)
def test_how_many_stay(moe: MoeConfig, options: dict[str, Any], count: int) -> None:
    assert kept_count(moe, asked(**options)) == count


@pytest.mark.parametrize(
    ("moe", "options", "message", "fix"),
    [
        (PLAIN, {"keep": 1}, "needs more experts than would be left", "--keep 2 or --keep 3"),
        (PLAIN, {"keep": 8}, "Nothing would be removed", "--keep 6 or --keep 7"),
        (PLAIN, {"keep": 9}, "Nothing would be removed", "--keep 6 or --keep 7"),
        (PLAIN, {"remove": 0.1}, "Nothing would be removed", "--keep 6 or --keep 7"),
        (R1, {"keep": 4}, "needs more experts", "--keep 16 or --keep 24"),
        (R1, {"keep": 180}, "groups of experts would become unequal", "--keep 176 or --keep 184"),
        (R1, {"keep": 8}, "fewer experts than it needs", "--keep 16 or --keep 24"),
        (V2, {"keep": 6}, "fewer experts than it needs", "none of this model's experts can be removed"),
    ],
)
def test_what_is_refused(moe: MoeConfig, options: dict[str, Any], message: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        kept_count(moe, asked(**options))
    assert caught.value.details["fix"] == fix and caught.value.exit_code == 1


def test_what_the_errors_offer_is_possible() -> None:
    for moe in (PLAIN, R1):
        for count in range(1, moe.num_experts + 2):
            try:
                kept_count(moe, asked(keep=count))
            except ConfigError as error:
                for offered in error.details["fix"].split(" or "):
                    assert kept_count(moe, asked(keep=int(offered.split()[1])))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep": 4, "remove": 0.5},
        {"keep": 0},
        {"remove": 0.0},
        {"remove": 1.0},
        {"remove": float("nan")},
        {"keep": 4, "criterion": "luck"},
        {"keep": 4, "seed": 1},
        {"keep": 4, "calibration_tokens": 255},
        {"keep": 4, "heldout_tokens": 0},
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        asked(**options)


def test_the_criteria_differ() -> None:
    tokens, contribution = [100.0, 1.0, 10.0, 0.0], [100.0, 9.0, 40.0, 0.0]  # means 1, 9, 4, 0
    assert chosen(tokens, contribution, 1, 2).kept == (1, 2)
    assert chosen(tokens, contribution, 1, 2, criterion="frequency").kept == (0, 2)


def test_every_group_keeps_as_many() -> None:
    tokens, contribution = [1.0] * 6, [9.0, 8.0, 7.0, 1.0, 3.0, 2.0]
    assert chosen(tokens, contribution, 1, 4).kept == (0, 1, 2, 4)
    assert chosen(tokens, contribution, 2, 4).kept == (0, 1, 4, 5)
    assert chosen(tokens, contribution, 3, 3).kept == (0, 2, 4)


def test_equal_experts_stay_in_a_fixed_order() -> None:
    assert chosen([4.0, 2.0, 4.0, 2.0], [4.0, 2.0, 4.0, 2.0], 1, 3).kept == (0, 1, 2)
    assert chosen([0.0] * 4, [0.0] * 4, 1, 2).kept == (0, 1)


def test_random_follows_its_seed() -> None:
    def kept(seed: int | None) -> tuple[int, ...]:
        return tuple(chosen([1.0] * 32, [1.0] * 32, 4, 16, criterion="random", seed=seed).kept)

    assert kept(None) == kept(0) and kept(1) == kept(1) != kept(0)
    assert [sum(expert // 8 == group for expert in kept(1)) for group in range(4)] == [4] * 4


def test_what_goes_with_the_removed() -> None:
    choice: LayerChoice = chosen([30.0, 10.0, 60.0], [10.0, 40.0, 50.0], 1, 1)
    assert (choice.kept, choice.removed) == ((1,), (0, 2))
    assert choice.removed_tokens == pytest.approx(0.9)
    assert choice.removed_contribution == pytest.approx(0.6)
    assert chosen([0.0, 0.0], [0.0, 0.0], 1, 1).removed_tokens == 0.0
