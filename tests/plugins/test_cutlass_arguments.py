"""What CUTLASS's grouped products are given, and the layer around them; the products need a Hopper GPU."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from kernels.build import build_library, build_program
from kernels.library import HostKernels

from r1trt.plugin_checks.cases import moe_cases, moe_reference
from r1trt.plugin_checks.cases.arrays import BFLOAT16, FLOAT8_E4M3, FLOAT16, aligned
from r1trt.plugin_checks.cases.moe_cases import BLOCK_128, PER_CHANNEL, WEIGHT_ONLY, MoeCase

FUSED, SEPARATE = 1, 2
PROBE = """
#include "dynamic_moe/cutlass_gemm.h"
using namespace r1trt::kernels::moe;
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT void group_of(int n, int k, long rows, int const* offset, int experts, int parts, int expert,
                     char* base, long* out) {
  GroupedGemm g{};
  g.experts = experts;
  g.parts = parts;
  g.n = n;
  g.k = k;
  g.rows = rows;
  g.offset = offset;
  g.a = {base, reinterpret_cast<float*>(base)};
  for (auto& weight : g.weight.part) weight = {base, reinterpret_cast<float*>(base)};
  g.out = base;
  CutlassGroup const group = cutlassGroup(g, expert);
  auto at = [&](void const* pointer) { return static_cast<char const*>(pointer) - base; };
  long const all[] = {group.m, group.n, group.k, at(group.a), at(group.b), at(group.d), at(group.a_scale),
                      at(group.b_scale)};
  for (int i = 0; i < 8; ++i) out[i] = all[i];
}
EXPORT int takes(int sm, long rows, int experts, int layout, int gated, int data_type, void* workspace) {
  static int const offset = 0;
  static float const scale = 1;
  GroupedGemm g{};
  g.cutlass = workspace;
  g.rows = rows;
  g.experts = experts;
  g.offset = &offset;
  g.quantized = true;
  g.gated = gated != 0;
  g.data_type = static_cast<r1trt::kernels::DataType>(data_type);
  g.scale_layout = static_cast<r1trt::kernels::ScaleLayout>(layout);
  g.a.scale = const_cast<float*>(&scale);
  g.n = g.k = 256;
  return cutlassTakes(g, sm) ? 1 : 0;
}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    source = tmp_path_factory.mktemp("cutlass") / "probe.cpp"
    source.write_text(PROBE)
    return ctypes.CDLL(str(build_program(source, "plain", "-shared")))


@pytest.fixture(scope="module")
def library() -> HostKernels:
    loaded = HostKernels(build_library())
    loaded.configure()
    return loaded


def group_of(
    probe: ctypes.CDLL,
    n: int,
    k: int,
    offset: np.ndarray | None,
    expert: int,
    rows: int = 0,
    parts: int = 1,
) -> list[int]:
    out = np.zeros(8, np.int64)
    pointer = None if offset is None else offset.ctypes.data_as(ctypes.c_void_p)
    base = ctypes.c_void_p(1 << 40)  # never read: cutlassGroup only adds to it
    experts = 0 if offset is None else len(offset) - 1
    to = out.ctypes.data_as(ctypes.c_void_p)
    probe.group_of(n, k, ctypes.c_long(rows), pointer, experts, parts, expert, base, to)
    return out.tolist()


def test_groups_are_the_experts_rows(probe: ctypes.CDLL) -> None:
    """Sizes, and offsets in bytes of a, b, d and both scales; 272 is three blocks of k, 400 is four of n."""
    offset = np.array([0, 5, 5, 900], np.int32)
    n, k, blocks = 400, 272, 3
    for expert, (begin, end) in enumerate([(0, 5), (5, 5), (5, 900)]):
        a, b, d = begin * k, expert * n * k, begin * n * 2
        want = [end - begin, n, k, a, b, d, begin * blocks * 4, expert * 4 * blocks * 4]
        assert group_of(probe, n, k, offset, expert) == want


def test_offsets_do_not_wrap_at_32_bits(probe: ctypes.CDLL) -> None:
    """DeepSeek-R1's experts: 256 of 4096 x 7168, and rows beyond 2^31 bytes."""
    offset = np.zeros(257, np.int32)
    offset[255], offset[256] = 2_000_000, 2_000_300
    got = group_of(probe, 4096, 7168, offset, 255)
    assert got[:6] == [300, 4096, 7168, 2_000_000 * 7168, 255 * 4096 * 7168, 2_000_000 * 4096 * 2]


@pytest.mark.parametrize(("expert", "index"), [(0, 0), (3, 3), (4, 0), (6, 2), (7, 0), (9, 2)])
def test_weights_of_parts_begin_anew(probe: ctypes.CDLL, expert: int, index: int) -> None:
    """Ten experts in parts of 4, 3 and 3; rows go on through the parts."""
    offset = np.arange(11, dtype=np.int32) * 5
    n, k = 256, 128
    got = group_of(probe, n, k, offset, expert, parts=3)
    assert got == [5, n, k, 5 * expert * k, index * n * k, 5 * expert * n * 2, 20 * expert, index * 2 * 4]


def test_without_offsets_all_rows_are_one_group(probe: ctypes.CDLL) -> None:
    assert group_of(probe, 256, 128, None, 0, rows=77) == [77, 256, 128, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, True),
        ({"sm": 89}, False),
        ({"sm": 100}, False),
        ({"rows": 128 * 8 - 1}, False),
        ({"layout": PER_CHANNEL}, False),
        ({"gated": 1}, False),
        ({"data_type": FLOAT16}, False),
        ({"workspace": None}, False),
    ],
    ids=str,
)
def test_what_cutlass_takes(probe: ctypes.CDLL, change: dict[str, int | None], taken: bool) -> None:
    """Large E4M3 products of Hopper with block scales, nothing else."""
    values = {"sm": 90, "rows": 128 * 8, "experts": 8, "layout": BLOCK_128, "gated": 0, "data_type": BFLOAT16}
    values = {**values, "workspace": 16, **change}
    workspace, rows = ctypes.c_void_p(values.pop("workspace")), ctypes.c_long(values.pop("rows") or 0)
    sm, experts, layout, gated, data_type = values.values()
    assert bool(probe.takes(sm, rows, experts, layout, gated, data_type, workspace)) is taken


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
    """The way around a CUTLASS product, with mma.sync's instead: against FP64, and not the fused bits."""
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
