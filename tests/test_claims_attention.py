"""The attention that the rows train: the definition's numbers, and its count of the arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from claims.attention import Pattern, attentions_of, block_pairs, full_pairs, share_of, with_pattern
from claims.budget import Budget, allowed_opening
from claims.small_model import SmallModel, config_of, small_model
from fast_attention import block_attention, window_attention
from torch import Tensor

from r1trt.config import HlaConfig
from r1trt.families import model_config_from_dict
from r1trt.model import R1AsaForCausalLM
from r1trt.model.attention import block_mask, masked_attention
from r1trt.model.decisions import recorded_decisions

FORMS: tuple[Literal["first_to_first", "all_to_first"], ...] = ("first_to_first", "all_to_first")
SIZES = SmallModel(vocab_size=40, hidden_size=32, num_heads=2, inner=32, block_size=8)
LENGTH = 64


def projections(heads: int = 4, groups: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, number, LENGTH, 8) for number in (heads, groups, groups)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return q, k, v


def reference(q: Tensor, k: Tensor, v: Tensor, mask_SL: Tensor) -> Tensor:
    return masked_attention(q.transpose(1, 2), k, v, mask_SL[None]).transpose(1, 2)


@pytest.mark.parametrize("form", FORMS)
def test_block_attention_is_that_of_the_mask(form: Literal["first_to_first", "all_to_first"]) -> None:
    hla = HlaConfig(block_size=8, inter_block=form)
    mask = block_mask(torch.arange(LENGTH)[None], LENGTH, hla)[0]
    expected = reference(*projections(), mask)
    torch.testing.assert_close(block_attention(*projections(), hla), expected, atol=1e-12, rtol=0)
    assert torch.equal(block_pairs(LENGTH, hla), mask.sum(-1).float())


@pytest.mark.parametrize("window", [4, 16, 64, 128])
def test_window_attention_is_that_of_the_mask(window: int) -> None:
    query, key = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    expected = reference(*projections(), (key <= query) & (key > query - window))
    torch.testing.assert_close(window_attention(*projections(), window), expected, atol=1e-12, rtol=0)


def logits(module: R1AsaForCausalLM) -> Tensor:
    ids = torch.randint(SIZES.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return module.double().eval()(ids)


def undecided(form: str = "first_to_first") -> R1AsaForCausalLM:
    """Gates on both sides of one half."""
    module = small_model(replace(SIZES, inter_block=form), seed=0)
    for layer in module.model.layers:
        layer.self_attn.lam_gate.bias.data.zero_()
    return module


@pytest.mark.parametrize("form", FORMS)
def test_the_mixture_is_the_definition(form: str) -> None:
    module = undecided(form)
    expected = logits(module)
    actual = logits(with_pattern(module, Pattern(kind="hla")))
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)
    block = block_pairs(LENGTH, attentions_of(module)[0].hla).sum() / full_pairs(LENGTH).sum()
    assert share_of(module) == pytest.approx(1 + float(block))  # both branches of every query


@pytest.mark.parametrize("form", FORMS)
def test_decided_gates_are_lam_skip_and_their_share_is_counted(form: str) -> None:
    module = undecided(form)
    skipping = model_config_from_dict(
        {**config_of(replace(SIZES, inter_block=form)), "hla_lam_skip": 0.49}, where=None
    )
    other = R1AsaForCausalLM(skipping)
    other.load_state_dict(module.state_dict())
    with recorded_decisions(other) as decisions:
        expected = logits(other)
    with_pattern(module, Pattern(kind="hla"))
    for attention in attentions_of(module):
        attention.decided = True
    torch.testing.assert_close(logits(module), expected, atol=1e-10, rtol=0)
    lam = torch.stack(list(decisions.lam.values()))
    full, block = full_pairs(LENGTH)[:, None], block_pairs(LENGTH, attentions_of(module)[0].hla)[:, None]
    pairs = (lam >= 0.49) * full + (lam <= 0.51) * block
    assert share_of(module) == pytest.approx(float(pairs.mean((0, 1, 3)).sum() / full.sum()), rel=1e-5)


def test_routing_to_every_block_is_full_attention() -> None:
    module = undecided()
    full = logits(with_pattern(module, Pattern(kind="full")))
    routed = logits(with_pattern(module, Pattern(kind="routed", routed=LENGTH)))
    torch.testing.assert_close(routed, full, atol=1e-10, rtol=0)


def test_a_budget_costs_what_is_open_beyond_it_and_closes_gates() -> None:
    module = with_pattern(undecided(), Pattern(kind="hla")).float()
    budget = Budget(share=0.3, begin=0.2, end=0.6)
    allowed = allowed_opening(budget.share, LENGTH, attentions_of(module)[0].hla)
    module(torch.arange(32)[None])
    assert budget.excess(module, 0.1, allowed).item() == 0  # everything is allowed at first
    excess = budget.excess(module, 0.9, allowed)
    assert excess.item() > 0
    excess.backward()  # type: ignore[no-untyped-call]
    for attention in attentions_of(module):
        assert attention.lam_gate is not None and bool((attention.lam_gate.bias.grad > 0).all())
