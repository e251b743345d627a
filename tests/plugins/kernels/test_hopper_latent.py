"""Which calls Hopper's own kernel of latents takes, and into how many parts it splits their keys."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernels.build import build_program
from kernels.library import HostKernels

from r1trt.plugin_checks.cases.arrays import BFLOAT16, address, aligned
from r1trt.plugin_checks.cases.params import AttentionParams

PROBE = """
#include "hla_attention/hopper_latent.h"
using namespace r1trt::kernels;
#define EXPORT extern "C" __attribute__((visibility("default")))
HlaAttentionParams call(int batch, int seq, int heads) {
  HlaAttentionParams p;
  p.batch = batch;
  p.seq = seq;
  p.heads = heads;
  p.kv_heads = 1;
  p.qk_head_dim = hla::kLatentQk;
  p.v_head_dim = hla::kLatentV;
  return p;
}
EXPORT int takes(int sm, int batch, int seq, int heads, long capacity, int value_size, int with_lam) {
  static float number = 1;
  HlaAttentionParams p = call(batch, seq, heads);
  p.v_head_dim = value_size;
  p.lam = with_lam != 0 ? &number : nullptr;
  p.key_cache = capacity >= 0 ? &number : nullptr;
  p.cache_capacity = capacity;
  return hla::hopperLatentTakes(p, sm) ? 1 : 0;
}
EXPORT int splits(int batch, int seq, int heads, long slots, int num_sms) {
  return hla::hopperLatentSplits(call(batch, seq, heads), slots, num_sms);
}
"""
SMS = 132
QUERY, VALUE = 576, 512
BRANCHES, FLOAT = 2, 4


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    source = tmp_path_factory.mktemp("latent") / "probe.cpp"
    source.write_text(PROBE)
    return ctypes.CDLL(str(build_program(source, "plain", "-shared")))


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({}, True),
        ({"seq": 4096}, True),
        ({"capacity": -1}, True),  # no cache
        ({"heads": 1}, True),
        ({"sm": 89}, False),
        ({"sm": 100}, False),
        ({"capacity": 0}, False),
        ({"batch": 1024, "capacity": 1 << 21}, False),  # more rows than a tensor map's coordinates count
        ({"value_size": 576}, False),
        ({"lam": 1}, False),
    ],
    ids=str,
)
def test_what_it_takes(probe: ctypes.CDLL, change: dict[str, int], taken: bool) -> None:
    values = {"sm": 90, "batch": 3, "seq": 1, "heads": 128, "capacity": 4096, "value_size": VALUE,
              "lam": 0} | change  # fmt: skip
    sm, batch, seq, heads, capacity, value_size, lam = values.values()
    assert bool(probe.takes(sm, batch, seq, heads, ctypes.c_long(capacity), value_size, lam)) is taken


@pytest.mark.parametrize(
    ("batch", "seq", "heads", "slots", "expected"),
    [
        (1, 1, 128, 4096, 32),  # two tiles each
        (32, 1, 128, 4096, 2),
        (128, 1, 128, 8192, 1),
        (44, 1, 128, 4096, 3),  # 264 blocks in two rounds of a third, instead of 88 in one
        (1, 1, 16, 100, 1),
        (1, 1, 16, 32768, 64),
        (1, 2, 128, 4096, 32),
        (1, 4096, 128, 4096, 1),
    ],
)
def test_splits_end_soonest(
    probe: ctypes.CDLL, batch: int, seq: int, heads: int, slots: int, expected: int
) -> None:
    assert probe.splits(batch, seq, heads, ctypes.c_long(slots), SMS) == expected


@pytest.mark.parametrize("heads", [1, 16, 40, 64, 128])
def test_partial_outputs_fit_the_workspace(probe: ctypes.CDLL, library: HostKernels, heads: int) -> None:
    capacity, cache = 32768, aligned((1,), np.float32)
    for batch in (1, 2, 3, 7, 32, 66, 100, 132, 264):
        for seq in (1, 2, 3, 4, 5, 8, 17, 100):
            splits = probe.splits(batch, seq, heads, ctypes.c_long(capacity), SMS)
            params = library.params(
                AttentionParams, data_type=BFLOAT16, batch=batch, seq=seq, heads=heads, kv_heads=1,
                qk_head_dim=QUERY, v_head_dim=VALUE, block_size=32, key_cache=address(cache),
                cache_capacity=capacity, sm=90, num_sms=SMS,
            )  # fmt: skip
            rows = BRANCHES * batch * seq * heads * splits
            needed = rows * (VALUE + 1) * FLOAT if splits > 1 else 0
            assert needed <= library.workspace_size(params), (batch, seq, splits)
