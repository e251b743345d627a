"""What the launch functions refuse, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernels.library import HostKernels

from r1trt.plugin_checks.cases import attention_cases, moe_cases
from r1trt.plugin_checks.cases.arrays import FLOAT8_E4M3, FLOAT16, FLOAT32, address, aligned
from r1trt.plugin_checks.cases.params import RopeParams

INVALID_VALUE, MEMORY_ALLOCATION, INVALID_CONFIGURATION, INVALID_POINTER, NOT_SUPPORTED = 1, 2, 9, 17, 801

Make = Callable[[HostKernels], tuple[Any, Any]]  # parameters, and what must outlive them


def rope(library: HostKernels) -> tuple[Any, Any]:
    data = aligned((64,), np.float32)
    data[...] = 0
    params = library.params(
        RopeParams, data_type=FLOAT16, batch=1, seq=1, heads=1, kv_heads=1, head_dim=8, rotary_dim=8,
        q=address(data), k=address(data), inv_freq=address(data), past_len=address(data), q_out=address(data),
        k_out=address(data),
    )  # fmt: skip
    return params, data


def attention(library: HostKernels) -> tuple[Any, Any]:
    case = attention_cases.AttentionCase(seq=2)
    problem = attention_cases.make_problem(case)
    y = aligned((1, 2, 2, 64), problem.q.dtype)
    return attention_cases.arguments(library, case, problem, y), (problem, y)


def split_attention(library: HostKernels) -> tuple[Any, Any]:
    case = attention_cases.AttentionCase(seq=1, past=(600,))
    problem = attention_cases.make_problem(case)
    y = aligned((1, 1, 2, 64), problem.q.dtype)
    return attention_cases.arguments(library, case, problem, y), (problem, y)


def moe(library: HostKernels) -> tuple[Any, Any]:
    case = moe_cases.MoeCase(seq=2)
    problem = moe_cases.make_problem(case)
    y = aligned(problem.x.shape, problem.x.dtype)
    return moe_cases.arguments(library, case, problem, y), (problem, y)


REFUSED: list[tuple[Make, dict[str, Any], int]] = [
    *((rope, change, INVALID_VALUE) for change in (
        {"rotary_dim": 7}, {"rotary_dim": 10}, {"rotary_dim": 0}, {"head_dim": 0}, {"batch": -1},
        {"heads": 0, "kv_heads": 0}, {"head_dim": 4096, "rotary_dim": 2048})),
    *((rope, {name: None}, INVALID_POINTER) for name in ("q", "k", "inv_freq", "past_len", "q_out", "k_out")),
    (rope, {"data_type": FLOAT8_E4M3}, NOT_SUPPORTED),
    *((attention, change, INVALID_VALUE) for change in (
        {"heads": 3, "kv_heads": 2}, {"heads": 0}, {"block_size": 0}, {"lam_skip": 0.6}, {"lam_skip": -0.1},
        {"cache_capacity": -1}, {"batch": 1 << 20})),
    *((attention, {name: None}, INVALID_POINTER) for name in ("q", "y", "value_cache")),
    *((attention, change, NOT_SUPPORTED) for change in (
        {"data_type": FLOAT32}, {"qk_head_dim": 96}, {"qk_head_dim": 576, "v_head_dim": 512, "kv_heads": 2})),
    *((moe, change, INVALID_VALUE) for change in (
        {"hidden": 60}, {"width": 40}, {"experts": 257}, {"top_k": 9}, {"top_k_min": 3}, {"top_k": 0},
        {"n_group": 3}, {"topk_group": 2}, {"shared_width": 8}, {"n_group": 8, "topk_group": 1,
        "topk_method": 1}, {"expert_parts": 0}, {"expert_parts": 6}, {"routed_scaling_factor": -1.0},
        {"routed_scaling_factor": float("nan")}, {"adaptive_threshold": -0.5})),
    *((moe, {name: None}, INVALID_POINTER) for name in ("x", "y", "w_router")),
    *((moe, change, NOT_SUPPORTED) for change in (
        {"data_type": FLOAT32}, {"weight_type": FLOAT16}, {"weight_type": FLOAT8_E4M3, "fp8_math": 1,
        "sm": 80})),
    (moe, {"weight_type": FLOAT8_E4M3}, INVALID_POINTER),
    (moe, {"expert_parts": 2}, INVALID_POINTER),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "change", "error"), REFUSED, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_refused(library: HostKernels, make: Make, change: dict[str, Any], error: int) -> None:
    params, keep = make(library)
    assert library.launch(params) == 0
    for name, value in change.items():
        setattr(params, name, value)
    assert library.launch(params) == error
    del keep


@pytest.mark.parametrize("make", [rope, attention, moe])
def test_misaligned_pointers_are_refused(library: HostKernels, make: Make) -> None:
    params, keep = make(library)
    name = "x" if hasattr(params, "x") else "q"
    setattr(params, name, getattr(params, name) + 8)
    assert library.launch(params) == INVALID_POINTER
    del keep


@pytest.mark.parametrize("make", [rope, attention, moe])
@pytest.mark.parametrize("empty", ["batch", "seq"])
def test_nothing_to_do_is_a_success(library: HostKernels, make: Make, empty: str) -> None:
    params, keep = make(library)
    setattr(params, empty, 0)
    assert library.launch(params) == 0
    del keep


@pytest.mark.parametrize("make", [split_attention, moe])
def test_a_small_workspace_is_refused(library: HostKernels, make: Make) -> None:
    params, keep = make(library)
    workspace = aligned((256,), np.uint8)
    params.workspace, params.workspace_size = address(workspace), workspace.size
    assert library.launch(params) == MEMORY_ALLOCATION
    del keep


@pytest.mark.parametrize("make", [split_attention, moe])
def test_the_workspace_of_the_largest_call_serves_the_smaller_ones(library: HostKernels, make: Make) -> None:
    params, keep = make(library)
    params.seq = 300
    largest = library.workspace_size(params)
    for seq in range(1, 300, 7):
        params.seq = seq
        assert library.workspace_size(params) <= largest
    del keep


def test_a_block_that_asks_for_too_much_shared_memory_is_refused(library: HostKernels) -> None:
    """The host layer knows the limit of a block, as a GPU does."""
    library.configure(shared_limit=8 * 1024)
    params, keep = attention(library)
    assert library.launch(params) == INVALID_CONFIGURATION
    assert "bytes of shared memory" in library.library.simt_last_error().decode()
    del keep
