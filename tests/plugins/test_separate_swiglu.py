"""SwiGLU as a kernel of its own, which Hopper's products want; here behind those of mma.sync."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernels.build import build_library
from kernels.library import HostKernels

from r1trt.plugin_checks.cases import moe_cases, moe_reference
from r1trt.plugin_checks.cases.arrays import FLOAT8_E4M3, FLOAT16, aligned
from r1trt.plugin_checks.cases.moe_cases import BLOCK_128, PER_CHANNEL, WEIGHT_ONLY, MoeCase

FUSED, SEPARATE = 1, 2


@pytest.fixture(scope="module")
def library() -> HostKernels:
    loaded = HostKernels(build_library())
    loaded.configure()
    return loaded


FP8 = {"weight_type": FLOAT8_E4M3}
CASES = [
    MoeCase(seq=90, experts=4, hidden=144, width=256, shared_width=128, layout=BLOCK_128, **FP8),
    MoeCase(seq=90, experts=4, hidden=144, width=144, static=True, **FP8),
    MoeCase(seq=40, experts=16, hidden=272, width=144, layout=PER_CHANNEL, math=WEIGHT_ONLY, **FP8),
    MoeCase(batch=2, seq=40, lengths=(1, 39), experts=8, top_k=3, shared_width=32, data_type=FLOAT16),
]


def output(library: HostKernels, case: MoeCase, swiglu: int) -> np.ndarray:
    problem = moe_cases.make_problem(case)
    y = aligned(problem.x.shape, problem.x.dtype)
    y[...] = np.nan
    params = moe_cases.arguments(library, case, problem, y)
    params.swiglu = swiglu
    library.check_launch(params)
    return y


@pytest.mark.parametrize("case", CASES, ids=str)
def test_swiglu_apart_from_the_product(library: HostKernels, case: MoeCase) -> None:
    """Against FP64, and not the bits that the fused way has."""
    apart = output(library, case, SEPARATE)
    # Gate and up are rounded on their way: one rounding more than the reference's tolerance knows.
    problem = moe_cases.make_problem(case)
    want, tolerance, close = moe_reference.reference(case, problem)
    got = apart.astype(np.float64).reshape(want.shape)
    valid = moe_reference.is_token(case, problem)
    compared = valid & ~close
    assert np.all(got[~valid] == 0)
    assert np.all(np.abs(got - want)[compared] <= 2 * tolerance[compared])
    assert not np.array_equal(apart, output(library, case, FUSED)), "the same numbers: was it the same way?"


def test_the_way_around_is_deterministic(library: HostKernels) -> None:
    case = replace(CASES[0], shared_width=0)
    first, second = (output(library, case, SEPARATE) for _ in range(2))
    np.testing.assert_array_equal(first.view(np.uint16), second.view(np.uint16))
