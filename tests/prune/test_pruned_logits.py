"""A pruned checkpoint computes what the whole one does whose routers cannot select the removed experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fp8_checkpoints import RAGGED, quantize_checkpoint
from prune.pruning import Logits, logits_of, logits_of_export, masked, module_of, pruned
from tiny_checkpoints import VOCAB_SIZE, write_deepseek, write_r1_asa

from r1trt.prune.result import PruneResult

TRAINED = Path(__file__).parents[1] / "data" / "r1_asa_bytes"
IDS = np.random.default_rng(0).integers(0, VOCAB_SIZE, 64).tolist()
TEXT_IDS = list(b"It is a truth universally acknowledged, that a single man in possession of a fortune")
SIGMOID: dict[str, Any] = {"scoring": "sigmoid", "num_experts": 12, "n_group": 3, "topk_group": 2}


def logits_without(checkpoint: Path, result: PruneResult, ids: list[int]) -> Logits:
    """Of the whole model, whose routers select none of the experts that were removed."""
    module = module_of(checkpoint)
    removed = {choice.scores.layer: choice.removed for choice in result.choices}
    assert all(removed.values())
    with masked(module, removed):
        return logits_of(module, ids)


def assert_pruned(
    checkpoint: Path, directory: Path, ids: list[int], *, wide: Path | None = None, **options: Any
) -> None:
    """`wide` is what a checkpoint in FP8 stands for, which PyTorch does not compute on a CPU."""
    result, output = pruned(checkpoint, directory, **options)
    wanted = logits_without(wide or checkpoint, result, ids)
    assert not np.allclose(wanted, logits_of(module_of(wide or checkpoint), ids), atol=0.01)
    if wide is None:
        np.testing.assert_allclose(logits_of(module_of(output), ids), wanted, atol=1e-4, rtol=1e-4)
    executed = logits_of_export(output, directory / "after", ids)
    np.testing.assert_allclose(executed, wanted, atol=5e-4, rtol=5e-4)


@pytest.mark.parametrize("criterion", ["reap", "frequency", "random"])
def test_deepseek_v3(criterion: Any, tmp_path: Path) -> None:
    checkpoint = write_deepseek(tmp_path / "checkpoint", tokenizer=True, n_routed_experts=16)
    assert_pruned(checkpoint, tmp_path, IDS, keep=8, criterion=criterion)


@pytest.mark.parametrize("method", ["greedy", "group_limited_greedy"])
def test_deepseek_v2(method: str, tmp_path: Path) -> None:
    checkpoint = write_deepseek(
        tmp_path / "checkpoint", "DeepseekV2ForCausalLM", tokenizer=True, n_routed_experts=16,
        topk_method=method,
    )  # fmt: skip
    assert_pruned(checkpoint, tmp_path, IDS, remove=0.5)


@pytest.mark.parametrize(
    "options",
    [{"adaptive_threshold": 0.6}, {"norm_topk_prob": False, "num_shared_experts": 1,
      "shared_intermediate_size": 32}, SIGMOID],
    ids=["adaptive", "unnormalized", "grouped"],
)  # fmt: skip
def test_r1_asa(options: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True, **options)
    assert_pruned(checkpoint, tmp_path, IDS, keep=6)


@pytest.mark.parametrize("keep", [6, 4])
def test_the_trained_mixture(keep: int, tmp_path: Path) -> None:
    assert_pruned(TRAINED, tmp_path, TEXT_IDS, keep=keep)


def test_fp8_keeps_bytes_and_scales(tmp_path: Path) -> None:
    wide = write_deepseek(tmp_path / "wide", tokenizer=True, n_routed_experts=12, **RAGGED)
    fp8 = quantize_checkpoint(wide, tmp_path / "fp8")
    assert_pruned(fp8, tmp_path, IDS, wide=wide, keep=8)
