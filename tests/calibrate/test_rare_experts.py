"""Experts that saw few tokens, counted as PyTorch's hooks count them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from calibrate.calibrations import calibrated, config_for, edit_weight, exported, seen_by_hooks
from tiny_checkpoints import write_r1_asa

from r1trt.calibrate.rare_experts import MARGIN, MIN_EXPERT_TOKENS, RareExperts, rare_experts_line
from r1trt.export.io import ExportedModel

LAYER, EXPERTS, HIDDEN = "model.layers.0.mlp", 8, 64
RARE = (2, 5)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportedModel]:
    """Layer 0's router hardly ever takes two of its experts."""
    directory = tmp_path_factory.mktemp("uneven")
    checkpoint = write_r1_asa(directory / "checkpoint", tokenizer=True)

    def shrink(weight: torch.Tensor) -> None:
        for expert in RARE:
            weight[expert] *= 0.2

    edit_weight(checkpoint, f"{LAYER}.router.weight", shrink)
    return checkpoint, exported(checkpoint, directory / "export")


def tokens_by_hooks(checkpoint: Path, directory: Path) -> list[int]:
    seen = seen_by_hooks(checkpoint, config_for(checkpoint, directory))
    names = [f"{LAYER}.experts.{expert}.gate_proj" for expert in range(EXPERTS)]
    return [sum(x.numel() for x in seen.get(name, [])) // HIDDEN for name in names]


def mid_amax_by_hooks(checkpoint: Path, directory: Path) -> float:
    seen = seen_by_hooks(checkpoint, config_for(checkpoint, directory))
    names = [f"{LAYER}.experts.{expert}.down_proj" for expert in range(EXPERTS)]
    return max(float(x.abs().max()) for name in names for x in seen.get(name, []) if x.numel())


def test_few_tokens_are_told_of(uneven: tuple[Path, ExportedModel], tmp_path: Path) -> None:
    checkpoint, model = uneven
    phases: list[str] = []
    plan = calibrated(
        model, config_for(checkpoint, tmp_path), progress=lambda phase, *_: phases.append(phase)
    )
    tokens = tokens_by_hooks(checkpoint, tmp_path)
    few = [expert for expert in range(EXPERTS) if tokens[expert] < MIN_EXPERT_TOKENS]
    assert set(RARE) <= set(few) and len(few) < EXPERTS, tokens
    record = str(plan.calibration[f"experts with too few tokens in {LAYER}.moe"])
    assert record.startswith(f"{len(few)} of {EXPERTS}: ") and "2" in record and "5" in record
    [line] = [phase for phase in phases if phase.startswith("experts that saw")]
    assert f": {min(tokens)})" in line


@pytest.mark.parametrize("method", ["amax", "mse", "percentile"])
def test_their_layers_scale_leaves_room(
    method: str, uneven: tuple[Path, ExportedModel], tmp_path: Path
) -> None:
    checkpoint, model = uneven
    layer = calibrated(model, config_for(checkpoint, tmp_path, method=method)).layers[f"{LAYER}.moe"]
    want = MARGIN * mid_amax_by_hooks(checkpoint, tmp_path) / 448
    assert layer.mid_scale == pytest.approx(want, rel=1e-5)


def test_the_record_of_a_layer_stays_short() -> None:
    few = {expert: 0 for expert in range(0, 200, 2)} | {expert: 3 for expert in range(200, 256)}
    text = str(RareExperts(layer="layer", tokens=few, experts=256))
    assert text.startswith("156 of 256: 0, 2, 4, ") and text.endswith(", and 85 more ranges")
    assert str(RareExperts(layer="layer", tokens={0: 1, 1: 1, 2: 0, 7: 5}, experts=8)) == "4 of 8: 0-2, 7"


def test_one_line_names_the_fewest() -> None:
    rare = [
        RareExperts(layer="a", tokens={3: 7}, experts=8),
        RareExperts(layer="b", tokens={1: 2, 4: 31}, experts=8),
    ]
    line = rare_experts_line(rare)
    assert "tokens: 3 in 2 layers (expert 1 of b: 2)" in line and "\n" not in line
