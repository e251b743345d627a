"""Scores of experts beside what PyTorch's modules do on the same text."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from fp8_checkpoints import RAGGED, quantize_checkpoint
from prune.pruning import chunks_of, exported
from tiny_checkpoints import write_deepseek, write_r1_asa
from torch import Tensor

from r1trt.model import load_checkpoint
from r1trt.model.moe import DynamicMoe
from r1trt.prune.scores import LayerScores, expert_scores

Sums = defaultdict[int, defaultdict[int, list[float]]]


def no_sums() -> Sums:
    return defaultdict(lambda: defaultdict(list))


def scores_of(checkpoint: Path, directory: Path) -> list[LayerScores]:
    return expert_scores(exported(checkpoint, directory / "export"), chunks_of(checkpoint))


def by_own_module(checkpoint: Path) -> Sums:
    """Weight times norm of every routed token, by layer and expert."""
    module, found = load_checkpoint(checkpoint, torch.float32), no_sums()
    for index, layer in enumerate(module.model.layers):
        if isinstance(layer.mlp, DynamicMoe):
            layer.mlp.register_forward_hook(
                lambda moe, inputs, _y, index=index: _add(found[index], moe, inputs[0][0])
            )
    _read(module, checkpoint)
    return found


def _add(sums: dict[int, list[float]], moe: DynamicMoe, x_TD: Tensor) -> None:
    routing = moe.router(x_TD)
    for token, (experts, weights, kept) in enumerate(
        zip(routing.experts_TK, routing.weights_TK, routing.kept_TK, strict=True)
    ):
        for expert, weight in zip(experts[kept].tolist(), weights[kept].tolist(), strict=True):
            sums[expert].append(weight * float(moe.experts[expert](x_TD[token]).norm()))


def by_transformers(checkpoint: Path) -> Sums:
    module = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    found = no_sums()
    for index, layer in enumerate(module.model.layers):
        if hasattr(layer.mlp, "experts"):
            layer.mlp.experts.register_forward_hook(
                lambda experts, inputs, _y, index=index: _add_stacked(found[index], experts, *inputs)
            )
    _read(module, checkpoint)
    return found


def _add_stacked(
    sums: dict[int, list[float]], experts: Any, x_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor
) -> None:
    for x_D, chosen, weights in zip(x_TD, expert_TK.tolist(), weight_TK.tolist(), strict=True):
        for expert, weight in zip(chosen, weights, strict=True):
            gate, up = (experts.gate_up_proj[expert] @ x_D).chunk(2)
            y_D = experts.down_proj[expert] @ (torch.nn.functional.silu(gate) * up)
            sums[expert].append(weight * float(y_D.norm()))


@torch.no_grad()
def _read(module: Any, checkpoint: Path) -> None:
    for chunk in chunks_of(checkpoint):
        module(torch.from_numpy(chunk)[None])


def assert_same(scores: list[LayerScores], sums: Sums) -> None:
    assert [item.layer for item in scores] == sorted(sums)
    for item in scores:
        of_layer = [sums[item.layer].get(expert, []) for expert in range(len(item.tokens_E))]
        assert item.tokens_E.tolist() == [len(values) for values in of_layer], item.layer
        means = [float(np.mean(values)) if values else 0.0 for values in of_layer]
        np.testing.assert_allclose(item.saliency_E, means, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"adaptive_threshold": 0.6, "num_shared_experts": 1, "shared_intermediate_size": 32},
        {"scoring": "sigmoid", "n_group": 2, "routed_scaling_factor": 2.5, "first_k_dense_replace": 1,
         "intermediate_size": 48},
        {"norm_topk_prob": False},
    ],
    ids=["adaptive", "grouped", "unnormalized"],
)  # fmt: skip
def test_r1_asa(options: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True, **options)
    assert_same(scores_of(checkpoint, tmp_path), by_own_module(checkpoint))


@pytest.mark.parametrize("architecture", ["DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM"])
def test_deepseek(architecture: str, tmp_path: Path) -> None:
    checkpoint = write_deepseek(tmp_path / "checkpoint", architecture, tokenizer=True)
    assert_same(scores_of(checkpoint, tmp_path), by_transformers(checkpoint))


def test_fp8_experts(tmp_path: Path) -> None:
    """The wide checkpoint becomes what the FP8 one stands for."""
    wide = write_deepseek(tmp_path / "wide", tokenizer=True, **RAGGED)
    fp8 = quantize_checkpoint(wide, tmp_path / "fp8")
    assert_same(scores_of(fp8, tmp_path), by_transformers(wide))
