"""Routing decisions and their margins, on scores that are set by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_checkpoints import r1_asa_module, r1_asa_raw_config

from r1trt.config import MoeConfig
from r1trt.model import recorded_decisions
from r1trt.model.moe import DynamicMoe, Router


def router_with_scores(scores: list[float], **options: Any) -> Router:
    """A softmax router that gives these scores to the one-dimensional token 1."""
    router = Router(MoeConfig(num_experts=len(scores), expert_width=1, **options), 1)
    with torch.no_grad():
        router.weight.copy_(torch.tensor(scores, dtype=torch.float64).log()[:, None])
    return router.double()


def route(scores: list[float], **options: Any) -> tuple[list[int], list[float], float]:
    routing = router_with_scores(scores, **options)(torch.ones(1, 1, dtype=torch.float64))
    kept = routing.kept_TK[0]
    weights = routing.weights_TK[0]
    assert not weights[~kept].any()
    return routing.experts_TK[0][kept].tolist(), weights[kept].tolist(), routing.margin_T.item()


def test_plain_top_k_normalizes_and_measures_the_gap_to_the_next() -> None:
    experts, weights, margin = route([0.1, 0.4, 0.2, 0.3], top_k=2)
    assert experts == [1, 3]
    assert weights == pytest.approx([4 / 7, 3 / 7])
    assert margin == pytest.approx(0.1)


def test_adaptive_k_keeps_the_fewest_that_reach_the_threshold() -> None:
    options = {"top_k": 3, "norm_topk_prob": False}
    assert route([0.1, 0.5, 0.3, 0.1], adaptive_threshold=0.5, **options)[0] == [1]
    experts, weights, margin = route([0.05, 0.5, 0.3, 0.15], adaptive_threshold=0.8, **options)
    assert experts == [1, 2]  # 0.5 + 0.3 >= 0.8 * 0.95
    assert weights == pytest.approx([0.5, 0.3])
    assert margin == pytest.approx(0.8 - 0.76)


def test_adaptive_k_keeps_at_least_its_minimum() -> None:
    assert route([0.1, 0.5, 0.3, 0.1], top_k=3, top_k_min=2, adaptive_threshold=0.1)[0] == [1, 2]


def test_threshold_of_one_is_plain_top_k() -> None:
    assert route([0.9, 0.1, 1e-30], top_k=3, adaptive_threshold=1.0)[0] == [0, 1, 2]


def test_ties_go_to_the_lower_expert_and_have_no_margin() -> None:
    experts, _, margin = route([0.2, 0.3, 0.2, 0.3], top_k=3)
    assert experts == [1, 3, 0]
    assert margin == pytest.approx(0, abs=1e-15)


def test_groups_are_scored_by_their_two_best() -> None:
    scores = [
        0.3,
        0.01,
        0.2,
        0.19,
        0.17,
        0.13,
    ]  # group sums 0.31, 0.39, 0.30; the best expert is in the second
    experts, _, margin = route(scores, top_k=2, n_group=3, topk_group=1, topk_method="noaux_tc")
    assert experts == [2, 3]
    # Other groups are closed, so the nearest other decision is another group.
    assert margin == pytest.approx(0.39 - 0.31)


def test_groups_are_scored_by_their_best_where_asked_for() -> None:
    scores = [0.3, 0.01, 0.2, 0.19, 0.17, 0.13]
    options = {"n_group": 3, "topk_group": 1, "topk_method": "group_limited_greedy"}
    assert route(scores, top_k=2, **options)[0] == [0, 1]


def test_correction_bias_selects_and_does_not_weigh() -> None:
    router = Router(
        MoeConfig(num_experts=3, expert_width=1, scoring="sigmoid", topk_method="noaux_tc", top_k=1), 1
    )
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[1.0], [0.0], [-1.0]]))
        router.e_score_correction_bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    router.config = MoeConfig(
        num_experts=3,
        expert_width=1,
        scoring="sigmoid",
        topk_method="noaux_tc",
        top_k=1,
        norm_topk_prob=False,
        routed_scaling_factor=2.0,
    )
    routing = router(torch.ones(1, 1))
    assert routing.experts_TK.tolist() == [[2]]
    assert routing.weights_TK.item() == pytest.approx(2 / (1 + math.e))


def test_only_choice_has_an_infinite_margin() -> None:
    assert route([1.0], top_k=1)[2] == math.inf


def test_padding_gives_zero_and_does_not_touch_the_others() -> None:
    torch.manual_seed(0)
    moe = DynamicMoe(MoeConfig(num_experts=4, expert_width=8, shared_width=8), 16)
    with torch.no_grad():
        moe.router.weight.normal_()
    x = torch.randn(2, 3, 16)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    with torch.no_grad():
        y, all_valid = moe(x, valid), moe(x, torch.ones_like(valid))
    assert not y[~valid].any()
    torch.testing.assert_close(y[valid], all_valid[valid], atol=1e-6, rtol=0)


def test_recorded_decisions_cover_all_layers_and_leave_no_hooks() -> None:
    raw = r1_asa_raw_config(first_k_dense_replace=1, intermediate_size=32, hla_lam_skip=0.1)
    module = r1_asa_module(raw)
    with torch.no_grad(), recorded_decisions(module) as decisions:
        module(torch.zeros(2, 5, dtype=torch.int64), torch.tensor([5, 2]))
    assert set(decisions.routing) == {1} and set(decisions.lam) == {0, 1}
    assert decisions.routing[1].experts_TK.shape == (7, 2)
    margin = decisions.margin_BS()
    assert margin.shape == (2, 5) and margin[1, 2:].isinf().all() and margin[decisions.valid_BS].max() < 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
