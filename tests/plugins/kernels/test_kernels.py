"""The kernels' own sources, run on the CPU, against FP64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernels.library import HostKernels

from r1trt.plugin_checks.cases import attention_cases, moe_cases
from r1trt.plugin_checks.cases.arrays import BFLOAT16, FLOAT8_E4M3, ROUNDING, aligned, aligned_copy
from r1trt.plugin_checks.cases.attention_cases import AttentionCase
from r1trt.plugin_checks.cases.case import Case
from r1trt.plugin_checks.cases.moe_cases import BLOCK_128, MoeCase
from r1trt.plugin_checks.cases.operators import OPERATORS

ALL = [(name, case) for name, operator in OPERATORS.items() for case in operator.cases]


@pytest.mark.parametrize(("operator", "case"), ALL, ids=str)
def test_the_definition(library: HostKernels, operator: str, case: Case) -> None:
    OPERATORS[operator].run(library, case)


SMALLEST_SHARED_MEMORY = 99 * 1024  # of a block on sm_86, sm_89 and sm_120


@pytest.mark.parametrize("sm", [86, 89, 120])
@pytest.mark.parametrize("operator", ["attention", "moe"])
def test_tiles_fit_the_smallest_shared_memory(library: HostKernels, operator: str, sm: int) -> None:
    library.configure(shared_limit=SMALLEST_SHARED_MEMORY)
    for case in OPERATORS[operator].quick:
        OPERATORS[operator].compute(library, replace(case, sm=sm))


def moe_output(library: HostKernels, case: MoeCase, problem: moe_cases.Problem) -> np.ndarray:
    y = aligned(problem.x.shape, problem.x.dtype)
    y[...] = np.nan
    library.check_launch(moe_cases.arguments(library, case, problem, y))
    return y.view(np.uint16)


@pytest.mark.parametrize(
    "case",
    [
        MoeCase(seq=90, experts=16, top_k=4, shared_width=32, threshold=0.7),
        MoeCase(seq=90, experts=4, hidden=144, width=128, weight_type=FLOAT8_E4M3, layout=BLOCK_128),
        MoeCase(seq=300, experts=16, hidden=528, width=16),
    ],
    ids=str,
)
def test_a_token_of_the_moe_does_not_depend_on_the_others(library: HostKernels, case: MoeCase) -> None:
    problem = moe_cases.make_problem(case)
    together = moe_output(library, case, problem)
    for first, count in ((0, 1), (40, 33)):
        alone = moe_cases.Problem(**vars(problem))
        alone.seq_len = aligned_copy(np.array([count], np.int64))
        alone.x = aligned_copy(problem.x[:, first : first + count])
        part = moe_output(library, replace(case, seq=count), alone)
        np.testing.assert_array_equal(part, together[:, first : first + count])


@pytest.mark.parametrize(
    "case",
    [
        MoeCase(seq=90, experts=7, top_k=3, shared_width=32),
        MoeCase(
            seq=40, experts=16, hidden=272, width=128, weight_type=FLOAT8_E4M3, layout=BLOCK_128, top_k=6
        ),
        MoeCase(seq=20, experts=9, hidden=144, width=144, weight_type=FLOAT8_E4M3, sm=80),
    ],
    ids=str,
)
def test_the_moe_does_not_depend_on_its_parts(library: HostKernels, case: MoeCase) -> None:
    problem = moe_cases.make_problem(case)
    whole = moe_output(library, case, problem)
    for parts in (2, 3, 5):
        np.testing.assert_array_equal(moe_output(library, replace(case, parts=parts), problem), whole)


def in_chunks(
    library: HostKernels, case: AttentionCase, whole: attention_cases.Problem, chunks: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """y and the key cache of a sequence that is fed in pieces to an empty cache."""
    problem = attention_cases.Problem(**vars(whole))
    problem.key_cache = aligned_copy(np.zeros_like(whole.key_cache))
    problem.value_cache = aligned_copy(np.zeros_like(whole.value_cache))
    parts, past = [], 0
    for seq in chunks:
        for name in ("q", "k", "v", "lam"):
            setattr(problem, name, aligned_copy(getattr(whole, name)[:, past : past + seq]))
        problem.past, problem.seq_len = np.array([past], np.int64), np.array([seq], np.int64)
        y = aligned((1, seq, case.heads, case.v), problem.q.dtype)
        library.check_launch(attention_cases.arguments(library, replace(case, seq=seq), problem, y))
        parts.append(y.astype(np.float64))
        past += seq
    return np.concatenate(parts, 1), problem.key_cache


@pytest.mark.parametrize("inter_block", [attention_cases.FIRST_TO_FIRST, attention_cases.ALL_TO_FIRST])
def test_attention_in_chunks_is_attention_at_once(library: HostKernels, inter_block: int) -> None:
    """One prefill, chunks of it, and token by token: the same cache, and the same output within roundings."""
    case = AttentionCase(seq=70, heads=4, kv_heads=2, room=2, inter_block=inter_block)
    problem = attention_cases.make_problem(case)
    want, cache = in_chunks(library, case, problem, [70])
    for chunks in ([32, 38], [33, 5, 32], [1] * 70):
        got, other_cache = in_chunks(library, case, problem, chunks)
        np.testing.assert_array_equal(other_cache.view(np.uint16), cache.view(np.uint16))
        assert np.abs(got - want).max() < 4 * ROUNDING[BFLOAT16]


def test_splits_of_the_keys_change_nothing_but_roundings(library: HostKernels) -> None:
    """However many multiprocessors there are: one part of the keys, or as many as there can be."""
    outputs = []
    for num_sms in (1, 2, 7, 64, 132):
        case = AttentionCase(seq=2, heads=8, kv_heads=2, past=(1700,), num_sms=num_sms)
        problem = attention_cases.make_problem(replace(case, num_sms=1))
        y = aligned((1, 2, 8, 64), problem.q.dtype)
        library.check_launch(attention_cases.arguments(library, case, problem, y))
        outputs.append(y.astype(np.float64))
    for other in outputs[1:]:
        assert np.abs(other - outputs[0]).max() < 2 * ROUNDING[BFLOAT16] * np.abs(outputs[0]).max()
    assert any((other != outputs[0]).any() for other in outputs[1:]), "no call was split"


def test_a_branch_without_weight_reads_nothing(library: HostKernels) -> None:
    """lam 0 everywhere: keys that only the full branch sees may be anything."""
    case = AttentionCase(seq=1, lam="zeros", past=(100,))  # block 96..127, and not a block's first
    problem = attention_cases.make_problem(case)
    y = [aligned((1, 1, case.heads, case.v), problem.q.dtype) for _ in range(2)]
    library.check_launch(attention_cases.arguments(library, case, problem, y[0]))
    assert problem.value_cache is not None
    problem.key_cache[:, :, :96] = np.nan
    problem.value_cache[:, :, :96] = np.nan
    library.check_launch(attention_cases.arguments(library, case, problem, y[1]))
    np.testing.assert_array_equal(y[0].view(np.uint16), y[1].view(np.uint16))
