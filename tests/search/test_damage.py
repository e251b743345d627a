"""Damages are KL divergences of whole models with one group changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from search_case import Case
from tiny_checkpoints import write_llama

from r1trt.calibrate.calibrate import CalibrationConfig
from r1trt.evaluate.divergence import Reference
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.search.candidates import Group, candidate_plans, groups_of_candidates, plan_of_choices
from r1trt.search.chain import ModelChain
from r1trt.search.damage import Damage, Damages, measured_damages
from r1trt.search.damage_cache import DamageCache

WINDOWS = [np.random.default_rng(seed).integers(2, 300, 32) for seed in (1, 2)]


def test_groups_partition_what_can_be_narrower(case: Case) -> None:
    layers = [name for group in case.groups for name in group.layers]
    narrow = {name for name, layer in case.plans["fp8"].layers.items() if layer.quantizes_input}
    assert len(layers) == len(set(layers)) and set(layers) == narrow
    assert "lm_head" in layers
    first = case.groups[0]
    assert first.name == "model.layers.0.self_attn.q_proj+k_proj+v_proj"
    assert [choice.kind for choice in first.choices] == ["bf16", "int8 weights", "fp8 by row", "fp8"]
    experts = [group for group in case.groups if group.name.endswith("mlp.moe")]
    # Experts have one scale each in both.
    assert all(len(group.choices) == 2 for group in experts)


@pytest.mark.parametrize("at", [0, 1, -2, -1])
def test_a_damage_is_that_of_a_model_with_one_group_changed(case: Case, at: int) -> None:
    group = case.groups[at]
    found = {
        (name, kind): damage
        for name, kind, damage in measured_damages(case.chain, case.exact, [group], WINDOWS)
    }
    assert set(found) == {(group.name, choice.kind) for choice in group.choices[1:]}
    for choice in group.choices[1:]:
        changed = plan_of_choices(case.exact, [choice])
        pieces = [
            Reference(logits(case, case.exact, window)).kl(logits(case, changed, window))
            for window in WINDOWS
        ]
        kl = np.concatenate(pieces)
        damage = found[group.name, choice.kind]
        assert damage.kl == pytest.approx(kl.mean(), rel=1e-3, abs=1e-7) and damage.kl > 0
        assert damage.error == pytest.approx(kl.std() / np.sqrt(len(kl)), rel=1e-2, abs=1e-7)


def test_a_tied_table_is_changed_at_both_ends(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True, head_dim=64, tie_word_embeddings=True)
    config = ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=64)
    export = load_export(export_checkpoint(config))
    plans = candidate_plans(export, "cpu", CalibrationConfig(tokenizer=export.path))
    case = Case(
        export=export,
        chain=ModelChain(export.model, export.weight_base),
        exact=plans["fp32"],
        plans=plans,
        groups=groups_of_candidates(export.model, plans),
    )
    group = case.groups[0]
    assert group.layers == ("model.embed_tokens", "lm_head")
    found = {kind: damage for _, kind, damage in measured_damages(case.chain, case.exact, [group], WINDOWS)}
    for choice in group.choices[1:]:
        changed = plan_of_choices(case.exact, [choice])
        kl = [Reference(logits(case, case.exact, ids)).kl(logits(case, changed, ids)) for ids in WINDOWS]
        assert found[choice.kind].kl == pytest.approx(np.concatenate(kl).mean(), rel=1e-3)
    types = [[layer.weight for layer in choice.layers.values()] for choice in group.choices]
    assert types == [["fp32", "fp32"], ["int8", "int8"], ["int8", "int4"]]
    assert 0 < found["int8"].kl < found["int4"].kl


def logits(case: Case, plan: object, window: np.ndarray) -> np.ndarray:
    (state,) = case.chain.hidden_states(plan, [window], "a test")  # type: ignore[arg-type]  # a plan
    return case.chain.session(case.chain.head, plan)(state)[0]  # type: ignore[arg-type]  # a plan


def test_what_is_known_is_not_measured_again(case: Case) -> None:
    known = {
        group.name: {choice.kind: Damage(kl=1.0, error=0.0) for choice in group.choices}
        for group in case.groups
    }
    assert not list(measured_damages(case.chain, case.exact, case.groups, WINDOWS, known))


def test_what_was_measured_is_known_by_types_and_scales(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R1TRT_CACHE", str(tmp_path))
    group, *others = case.groups
    DamageCache(case.groups, WINDOWS, ["weights"]).add(group.name, "fp8", Damage(kl=1.0, error=0.5))

    def known(first: Group, weights: str = "weights") -> Damages:
        return DamageCache([first, *others], WINDOWS, [weights]).read()

    def changed(**fields: Any) -> Group:
        choices = [
            replace(choice, layers={name: replace(layer, **fields) for name, layer in choice.layers.items()})
            for choice in group.choices
        ]
        return replace(group, choices=tuple(choices))

    found = {group.name: {"fp8": Damage(kl=1.0, error=0.5)}}
    assert known(group) == known(changed(reason="in other words")) == found
    fewer = replace(group, choices=tuple(choice for choice in group.choices if choice.kind != "fp8 by row"))
    assert known(fewer) == found
    assert not known(changed(output="fp32"))
    assert not known(group, "other weights")
    monkeypatch.setattr(onnxruntime, "__version__", "1.99.0")
    assert not known(group)
