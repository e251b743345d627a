"""Exported R1-ASA graphs against the PyTorch module; tokens within 1e-5 of a tie are left out and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from export.agreement import FEEDS, TOLERANCE, Feed, exported_session, feed, random_prompts
from tiny_checkpoints import write_r1_asa

from r1trt.model import load_checkpoint, recorded_decisions
from r1trt.runtime.session import Session

TIE = 1e-5

SIGMOID = {"scoring": "sigmoid", "top_k": 4, "routed_scaling_factor": 2.5}
CASES: dict[str, dict[str, Any]] = {
    "lam-mixed": {},
    "lam-zero": {"lam": "zero"},
    "lam-one": {"lam": "one"},
    "lam-skip": {"hla_lam_skip": 0.2},
    "no-gate": {"hla_gate": False},
    "all-to-first": {"hla_inter_block": "all_to_first"},
    "all-to-first-zero": {"hla_inter_block": "all_to_first", "lam": "zero"},
    "adaptive": {"top_k": 4, "adaptive_threshold": 0.6},
    "adaptive-min": {"top_k": 4, "top_k_min": 2, "adaptive_threshold": 0.5},
    "not-normalized": {"norm_topk_prob": False, "routed_scaling_factor": 1.5},
    "shared": {"num_shared_experts": 1, "shared_intermediate_size": 48},
    "sigmoid": SIGMOID,
    "sigmoid-groups": {**SIGMOID, "num_experts": 16, "n_group": 4, "topk_group": 2},
    "softmax-groups": {"num_experts": 16, "n_group": 4, "topk_group": 2, "top_k": 4},
    "one-expert": {"num_experts": 1, "top_k": 1},
    "two-experts": {"num_experts": 2},
    "64-experts": {"num_experts": 64, "top_k": 8, "adaptive_threshold": 0.8},
    "dense-layers": {"first_k_dense_replace": 1, "intermediate_size": 96},
    "tied": {"tie_word_embeddings": True},
    "bfloat16": {"dtype": "bfloat16"},
    "sharded": {"max_shard_bytes": 40_000},
}


def check_agreement(
    checkpoint: Path, session: Session, lengths: tuple[int, ...], calls: Feed, label: str
) -> int:
    """Asserts agreement on every token that is not within 1e-5 of a tie; returns how many were left out."""
    module = load_checkpoint(checkpoint, torch.float32)
    prompts = random_prompts(lengths, session.limits.vocab_size)
    got = feed(session, prompts, calls)
    left_out = 0
    for row, prompt in enumerate(prompts):
        with torch.no_grad(), recorded_decisions(module) as decisions:
            want = module(torch.from_numpy(prompt)[None])[0].numpy()
        clear = decisions.margin_BS()[0].numpy()[: len(got[row])] >= TIE
        left_out += int((~clear).sum())
        if clear.any():
            error = np.abs(got[row] - want[: len(got[row])])[clear].max() / np.abs(want).max()
            assert error <= TOLERANCE, f"{label}, row {row}: {error:.2e}"
    return left_out


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_module(name: str, tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", **CASES[name])
    session = exported_session(checkpoint, tmp_path / "export")
    for how, calls in FEEDS.items():
        left_out = check_agreement(checkpoint, session, (37, 23), calls, f"{name}, {how}")
        assert left_out <= 6, f"{name}, {how}: {left_out} of 60 tokens lie near a tie: nothing was compared"


@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 500])
def test_any_number_of_tokens(tokens: int, tmp_path: Path) -> None:
    options = {"hla_block_size": 32, "num_experts": 16, "top_k": 4, "adaptive_threshold": 0.7}
    checkpoint = write_r1_asa(tmp_path / "checkpoint", max_position_embeddings=512, **options)
    session = exported_session(checkpoint, tmp_path / "export", capacity=512)
    left_out = check_agreement(checkpoint, session, (tokens,), [(tokens,)], f"{tokens} tokens")
    assert left_out <= tokens // 10


@pytest.mark.parametrize("experts", [1, 2, 7, 64])
def test_every_expert_is_exported_and_counts(experts: int, tmp_path: Path) -> None:
    """All experts feed the graph, and a change of any one of them changes the logits of some token."""
    checkpoint = write_r1_asa(
        tmp_path / "checkpoint", num_experts=experts, top_k=min(2, experts), num_hidden_layers=1
    )
    session = exported_session(checkpoint, tmp_path / "export", capacity=512)
    model = ir.load(tmp_path / "export" / "model.onnx")
    (stack,) = [node for node in model.graph if node.name == "model.layers.0.mlp.experts.gate_up.concat"]
    assert len(stack.inputs) == 2 * experts
    module = load_checkpoint(checkpoint, torch.float32)
    prompts = random_prompts((400,), session.limits.vocab_size)
    with torch.no_grad(), recorded_decisions(module) as decisions:
        module(torch.from_numpy(prompts[0])[None])
    routing = decisions.routing[0]
    chosen = set(routing.experts_TK[routing.kept_TK].tolist())
    assert len(chosen) >= 0.8 * experts, "too few experts are hit for the comparison to mean anything"
    check_agreement(checkpoint, session, (400,), [(400,)], f"{experts} experts")


def test_the_comparison_notices_another_model(tmp_path: Path) -> None:
    session = exported_session(write_r1_asa(tmp_path / "a"), tmp_path / "export")
    other = write_r1_asa(tmp_path / "b", hla_block_size=16)
    with pytest.raises(AssertionError, match="row 0"):
        check_agreement(other, session, (37, 23), FEEDS["prefill"], "other block size")
