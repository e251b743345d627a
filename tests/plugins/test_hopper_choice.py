"""Which products Hopper's own kernels take, and where a group's weights are; the products need that GPU."""

from __future__ import annotations

import ctypes

import pytest
from kernels.build import build_program

from r1trt.plugin_checks.cases.arrays import BFLOAT16, FLOAT8_E4M3, FLOAT16
from r1trt.plugin_checks.cases.moe_cases import BLOCK_128, PER_CHANNEL

PROBE = """
#include "dynamic_moe/hopper_gemm.h"
using namespace r1trt::kernels;
using namespace r1trt::kernels::moe;
#define EXPORT extern "C" __attribute__((visibility("default")))
GroupedGemm grouped(int experts, int groups, int parts) {
  GroupedGemm g{};
  g.experts = experts;
  g.groups = groups;
  g.parts = parts;
  return g;
}
EXPORT int takes(int sm, long rows, int groups, int layout, int weight_type, int gated, int static_scale) {
  static float scale = 1;
  GroupedGemm g = grouped(groups, groups, 1);
  g.rows = rows;
  g.gated = gated != 0;
  g.data_type = DataType::kBFloat16;
  g.weight_type = static_cast<DataType>(weight_type);
  g.quantized = g.weight_type == DataType::kFloat8E4M3;
  g.scale_layout = static_cast<ScaleLayout>(layout);
  if (g.quantized) (static_scale != 0 ? *const_cast<float const**>(&g.a_scale) : *const_cast<float const**>(
      reinterpret_cast<float const* const*>(&g.a.scale))) = &scale;
  g.n = g.k = 256;
  return hopperTakes(g, sm) ? 1 : 0;
}
EXPORT int suits(int sm, long rows, int groups, int layout, int weight_type) {
  DynamicMoeParams p;
  p.weight_type = static_cast<DataType>(weight_type);
  p.scale_layout = static_cast<ScaleLayout>(layout);
  return hopperSuits(p, sm, rows, groups, p.weight_type == DataType::kFloat8E4M3) ? 1 : 0;
}
EXPORT int maps(int experts, int groups, int parts) { return mapsOf(grouped(experts, groups, parts)); }
EXPORT long matrices(int experts, int groups, int parts, int part) {
  return matricesOf(grouped(experts, groups, parts), part);
}
EXPORT int place(int group, int experts, int parts) {
  ExpertPlace const found = placeOfGroup(group, experts, parts);
  return found.part * 1000 + found.index;
}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    source = tmp_path_factory.mktemp("hopper") / "probe.cpp"
    source.write_text(PROBE)
    library = ctypes.CDLL(str(build_program(source, "plain", "-shared")))
    library.matrices.restype = ctypes.c_long
    return library


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, True),
        ({"weight_type": BFLOAT16}, True),
        ({"weight_type": FLOAT16}, False),
        ({"sm": 89}, False),
        ({"sm": 100}, False),
        ({"rows": 8}, False),
        ({"groups": 1}, False),
        ({"groups": 1, "rows": 128}, True),
        ({"layout": PER_CHANNEL}, True),
        ({"layout": PER_CHANNEL, "weight_type": BFLOAT16}, True),
        ({"gated": 1}, False),
        ({"static": 1}, True),
    ],
    ids=str,
)
def test_what_they_take(probe: ctypes.CDLL, change: dict[str, int], taken: bool) -> None:
    """Plain products from a row a group on: 16 bits, or E4M3 by E4M3."""
    values = {"sm": 90, "rows": 9, "groups": 9, "layout": BLOCK_128, "weight_type": FLOAT8_E4M3, "gated": 0,
              "static": 0} | change  # fmt: skip
    sm, rows, groups, layout, weight, gated, static = values.values()
    assert bool(probe.takes(sm, ctypes.c_long(rows), groups, layout, weight, gated, static)) is taken
    if not (gated or static):
        # What a layer is laid out for is what its products take.
        assert bool(probe.suits(sm, ctypes.c_long(rows), groups, layout, weight)) is taken


@pytest.mark.parametrize(("experts", "parts"), [(1, 1), (8, 1), (7, 3), (256, 5), (5, 5)])
@pytest.mark.parametrize("shared", [0, 1])
def test_every_group_has_its_own_matrix(probe: ctypes.CDLL, experts: int, parts: int, shared: int) -> None:
    groups = experts + shared
    assert probe.maps(experts, groups, parts) == parts + shared
    sizes = [probe.matrices(experts, groups, parts, part) for part in range(parts + shared)]
    assert sum(sizes) == groups
    places = [divmod(probe.place(group, experts, parts), 1000) for group in range(groups)]
    assert places == [(part, index) for part, size in enumerate(sizes) for index in range(size)]
