"""The tests' own FP64 references are the PyTorch model's in FP64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoints import r1_asa_raw_config
from torch.nn import functional as F

from r1trt.config import HlaConfig, MoeConfig, RopeConfig
from r1trt.families import model_config_from_dict
from r1trt.model.attention import block_mask, causal_mask, lam_after_skip, masked_attention
from r1trt.model.moe import DynamicMoe
from r1trt.model.rope import DynamicRope
from r1trt.plugin_checks.cases import attention_cases, moe_cases, moe_reference, rope_cases
from r1trt.plugin_checks.cases.attention_cases import AttentionCase
from r1trt.plugin_checks.cases.moe_cases import MoeCase
from r1trt.plugin_checks.cases.rope_cases import RopeCase

SAME = 1e-9  # of the largest number; both are FP64, but attributes are FP32 in the kernels


def double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array, np.float64))


def assert_same(got: np.ndarray, want: torch.Tensor) -> None:
    assert np.abs(got - want.numpy()).max() <= SAME * max(1.0, float(want.abs().max()))


def model_rope(case: RopeCase, inv_freq: np.ndarray) -> DynamicRope:
    config = model_config_from_dict(r1_asa_raw_config(), where=Path("config.json"))
    rope = DynamicRope(config, 64)
    rope.config = RopeConfig(
        kind="default", theta=10000.0, rotary_dim=case.rotary_dim, parameters={},
        interleaved=case.interleaved,
        temperature_alpha=float(np.float32(case.alpha)), original_max_position=case.original,
    )  # fmt: skip
    rope.inv_freq, rope.attention_factor = inv_freq, float(np.float32(case.attention_factor))
    return rope


@pytest.mark.parametrize("case", rope_cases.CASES, ids=str)
def test_rope(case: RopeCase) -> None:
    p = rope_cases.make_problem(case)
    rope = model_rope(case, p.inv_freq)
    position = torch.from_numpy(p.past[:, None] + np.arange(case.seq))
    cos, sin = rope.cos_sin(position, torch.zeros(1, dtype=torch.float64))
    assert_same(rope_cases.rotated(case, p.q, p), rope.rotate(double(p.q), cos, sin))


@pytest.mark.parametrize("case", [case for case in attention_cases.CASES if not case.scale], ids=str)
def test_attention(case: AttentionCase) -> None:
    p = attention_cases.make_problem(case)
    want, _ = attention_cases.reference(case, p)
    # Of slots that nobody wrote, which are NaN, the model needs numbers, whose weights are 0.
    keys = double(want["key_cache"]).nan_to_num()
    # The model's heads of keys and values have one size: what the values lack is 0, and cut off below.
    values = keys if case.latent else F.pad(double(want["value_cache"]), (0, case.qk - case.v)).nan_to_num()
    position = torch.from_numpy(p.past[:, None] + np.arange(case.seq))
    inter_block = ("first_to_first", "all_to_first")[case.inter_block]
    hla = HlaConfig(block_size=case.block, inter_block=inter_block, lam_skip=case.lam_skip, gate=True)
    lam = torch.ones(case.batch, case.seq, case.heads, dtype=torch.float64)
    if p.lam is not None:
        lam = lam_after_skip(double(p.lam), float(np.float32(case.lam_skip)))
    full = masked_attention(double(p.q), keys, values, causal_mask(position, keys.shape[2]))
    block = masked_attention(double(p.q), keys, values, block_mask(position, keys.shape[2], hla))
    y = (lam[..., None] * full + (1 - lam[..., None]) * block)[..., : case.v]
    valid = np.arange(case.seq) < attention_cases.tokens(p)[:, None]
    assert_same(want["y"][valid], y[torch.from_numpy(valid)])


def model_moe(case: MoeCase, p: moe_cases.Problem) -> DynamicMoe:
    config = MoeConfig(
        num_experts=case.experts, expert_width=case.width, shared_width=case.shared_width,
        scoring="sigmoid" if case.sigmoid else "softmax",
        topk_method=("greedy", "group_limited_greedy", "noaux_tc")[case.method], top_k=case.top_k,
        top_k_min=case.top_k_min, adaptive_threshold=float(np.float32(case.threshold)),
        norm_topk_prob=case.norm,
        routed_scaling_factor=float(np.float32(case.scaling)), n_group=case.n_group,
        topk_group=case.topk_group,
    )  # fmt: skip
    moe = DynamicMoe(config, case.hidden).double()
    state = {"router.weight": double(p.w_router)}
    if case.sigmoid:
        state["router.e_score_correction_bias"] = double(np.zeros(case.experts) if p.bias is None else p.bias)
    for e in range(case.experts):
        gate, up = np.split(p.gate_up.value[e], 2)
        state |= {
            f"experts.{e}.{part}_proj.weight": double(w)
            for part, w in zip(("gate", "up"), (gate, up), strict=True)
        }
        state[f"experts.{e}.down_proj.weight"] = double(p.down.value[e])
    if p.shared_gate_up is not None and p.shared_down is not None:
        gate, up = np.split(p.shared_gate_up.value, 2)
        parts = {"gate": gate, "up": up, "down": p.shared_down.value}
        state |= {f"shared_expert.{part}_proj.weight": double(w) for part, w in parts.items()}
    moe.load_state_dict(state)
    return moe


def in_the_model(case: MoeCase) -> bool:
    """The model has no quantized activations, no groups that are ignored, and none of a single expert."""
    groups = case.n_group == 1 or (case.method != moe_cases.GREEDY and case.experts > case.n_group)
    return groups and not case.quantized and case.routing != "equal"


@pytest.mark.parametrize("case", [*filter(in_the_model, moe_cases.CASES)], ids=str)
def test_moe(case: MoeCase) -> None:
    p = moe_cases.make_problem(case)
    want, _, close = moe_reference.reference(case, p)
    valid = moe_reference.is_token(case, p)
    with torch.no_grad():
        y = model_moe(case, p)(double(p.x), torch.from_numpy(valid.reshape(case.batch, case.seq)))
    assert_same(want[~close], y.reshape(want.shape)[torch.from_numpy(~close)])
