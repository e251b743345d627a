"""Cheap scores: Fisher's agrees with measured damages in order and size, and knows what it cannot score."""

from __future__ import annotations

import numpy as np
import torch
from search_case import Case
from torch import nn

from r1trt.evaluate.checkpoint import module_from_checkpoint
from r1trt.precision.plan import LayerPrecision
from r1trt.search.candidates import Choice, Group
from r1trt.search.damage import Damages, measured_damages
from r1trt.search.fisher import cheap_scores

WINDOWS = [np.random.default_rng(seed).integers(2, 300, 48) for seed in range(6)]


def test_fisher_orders_choices_as_measurement_does(case: Case) -> None:
    damages: Damages = {}
    for group, kind, damage in measured_damages(case.chain, case.exact, case.groups, WINDOWS):
        damages.setdefault(group, {})[kind] = damage
    module = module_from_checkpoint(case.export.weight_base, config=case.export.config, capacity=None)
    found = cheap_scores(module, case.groups, WINDOWS, damages)
    assert found.fisher_correlation > 0.7
    scored = {group.name for group in case.groups if not group.name.endswith("mlp.moe")}
    assert scored - {"lm_head"} <= set(found.fisher) == set(found.error) <= scored
    ratios = [
        score / damages[group][kind].kl
        for group, kinds in found.fisher.items()
        for kind, score in kinds.items()
    ]
    assert 0.2 < float(np.median(ratios)) < 5.0


def test_the_score_of_a_head_is_exact_to_the_second_order() -> None:
    """Of a model that is its head: E (g d)^2 / 2 over all tokens is what KL starts with."""

    class OnlyHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(40, 16)
            self.lm_head = nn.Linear(16, 40, bias=False)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.lm_head(self.embed(ids))
            return logits

    torch.manual_seed(0)
    module = OnlyHead()
    scale = 0.02
    layer = LayerPrecision(
        op="R1Linear", input="bf16", weight="fp8_e4m3", output="bf16", weight_scale=scale, reason="a test"
    )
    choices = [Choice(kind=kind, layers={"lm_head": layer}) for kind in ("bf16", "fp8 weights")]
    group = Group(name="lm_head", choices=tuple(choices))
    windows = [np.random.default_rng(seed).integers(0, 40, 64) for seed in range(200)]
    found = cheap_scores(module, [group], windows, {}).fisher["lm_head"]["fp8 weights"]
    with torch.no_grad():
        weight = module.lm_head.weight
        rounded = (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
        x = module.embed(torch.from_numpy(np.concatenate(windows)))
        p = (x @ weight.T).softmax(-1)
        d = x @ (rounded - weight).T
        mean = (p * d).sum(-1)
        want = float(0.5 * ((p * d.square()).sum(-1) - mean.square()).mean())
    np.testing.assert_allclose(found, want, rtol=0.05)
