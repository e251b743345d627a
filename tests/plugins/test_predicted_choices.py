"""What predictions say of tiles and splits, against the kernels' own host-side functions."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest
from kernels.build import build_program

from r1trt.plugin_checks.bench.predicted import decode, moe, prefill
from r1trt.plugin_checks.bench.predicted.machine import SMS
from r1trt.plugin_checks.bench.predicted.products import takes_hopper

# Lines of numbers on the standard input, each answered by one. Nothing is launched: what a call would launch
# is weak, and not linked.
PROBE = """
#include <cstdio>
#include <iostream>
#include <map>
#include <string>
#include "hla_attention/hopper_latent.h"
#include "hla_attention/hopper_prefill.h"
namespace r1trt::kernels::hla {
#define NOT_LINKED __attribute__((weak))
NOT_LINKED cudaError_t launchAttention64(Attention const&, bool, cudaStream_t);
NOT_LINKED cudaError_t launchAttention128(Attention const&, bool, cudaStream_t);
NOT_LINKED cudaError_t launchAttention192(Attention const&, bool, cudaStream_t);
NOT_LINKED cudaError_t launchAttentionLatent(Attention const&, bool, cudaStream_t);
NOT_LINKED cudaError_t launchHopperLatent(Attention const&, cudaStream_t);
NOT_LINKED bool hopperBuilt();
namespace prefill {
NOT_LINKED size_t hopperWorkspaceSize(HlaAttentionParams const&);
NOT_LINKED cudaError_t launchHopperBlock(Attention const&, cudaStream_t);
NOT_LINKED cudaError_t launchHopperAttention(Attention const&, cudaStream_t);
}
}
#include "hla_attention/cache.cu"
#include "hla_attention/hla_attention.cu"
#include "hla_attention/hopper_block_rows.cuh"
#include "hla_attention/hopper_full_rows.cuh"
#include "dynamic_moe/hopper_gemm.h"
using namespace r1trt::kernels;
HlaAttentionParams call(int batch, int seq, int heads, int kv_heads, int size, long keys) {
  static float number = 1;
  HlaAttentionParams p;
  p.batch = batch, p.seq = seq, p.heads = heads, p.kv_heads = kv_heads;
  p.qk_head_dim = size, p.v_head_dim = size == hla::kLatentQk ? hla::kLatentV : size;
  p.inter_block = InterBlock::kAllToFirst;
  if (keys > 0) p.key_cache = &number, p.cache_capacity = keys;
  return p;
}
// By `mma.sync`: blocks times splits, and splits.
void mma(int batch, int heads, int kv_heads, int size, long keys) {
  HlaAttentionParams const p = call(batch, 1, heads, kv_heads, size, keys);
  int const tile = hla::smallTiles(p, 90) ? hla::kSmallRows : hla::kLargeRows;
  int64_t const blocks = ceilDiv(heads / kv_heads, tile) * int64_t{kv_heads} * batch;
  int const splits = hla::splitsOf(p, keys, blocks, SMS);
  printf("%ld %d\\n", static_cast<long>(blocks * splits), splits);
}
void latent(int batch, int heads, long keys) {
  HlaAttentionParams const p = call(batch, 1, heads, 1, hla::kLatentQk, keys);
  printf("%d\\n", hla::hopperLatentSplits(p, keys, SMS));
}
// Steps of the block branch's tiles that are there, in their order.
void block(int seq, int heads, int kv_heads) {
  namespace prefill = hla::prefill;
  hla::Attention a{};
  a.params = call(1, seq, heads, kv_heads, 128, 0);
  a.slots = seq, a.group = heads / kv_heads;
  prefill::BlockTiles const tiles = prefill::tilesOf(a.params, SMS);
  for (int tile = 0; tile < tiles.schedule.tiles; ++tile) {
    prefill::BlockRows const rows = prefill::rowsOf(a, tiles, tile);
    if (rows.begin < rows.end) printf("%d ", prefill::keysOf(a, tiles, rows).tiles());
  }
  printf("\\n");
}
void full(int seq, int heads, int kv_heads) {
  hla::prefill::FullTiles const tiles =
      hla::prefill::fullTilesOf(call(1, seq, heads, kv_heads, 128, 0), SMS);
  printf("%d\\n", (tiles.of_tokens - (seq % 128 == 0 ? 1 : 0)) * heads);
}
int main() {
  std::string what;
  long n[5];
  while (std::cin >> what >> n[0] >> n[1] >> n[2] >> n[3] >> n[4]) {
    auto of = [&](int i) { return static_cast<int>(n[i]); };
    if (what == "mma") mma(of(0), of(1), of(2), of(3), n[4]);
    if (what == "latent") latent(of(0), of(1), n[2]);
    if (what == "block") block(of(0), of(1), of(2));
    if (what == "full") full(of(0), of(1), of(2));
    if (what == "combine") printf("%d\\n", hla::partsOf(of(0), of(1) / 4) * (of(1) / 4));
    if (what == "router") {
      printf("%d %d %d\\n", moe::tokensPerRouterBlock(n[0]), moe::logitSlices(n[0], of(1)),
             moe::stretchesPerSlice(of(1)));
    }
    if (what == "hopper") printf("%d\\n", n[0] >= moe::leastHopperRows(n[1]) ? 1 : 0);
  }
}
""".replace("SMS", str(SMS))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("predicted") / "probe.cpp"
    source.write_text(PROBE)
    return build_program(source, "plain")


def asked(program: Path, what: str, *numbers: int) -> list[int]:
    line = " ".join(map(str, (what, *numbers, *[0] * (5 - len(numbers)))))
    done = subprocess.run([program], input=line, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize("keys", [100, 2048, 8192, 32768])
@pytest.mark.parametrize("batch", [1, 3, 8, 32, 128])
def test_splits(program: Path, batch: int, keys: int) -> None:
    heads = decode.Decode(batch=batch, keys=keys, heads=32, kv_heads=8)
    found = decode.mma_splits(heads)
    assert [found.blocks, found.splits] == asked(program, "mma", batch, 32, 8, 128, keys)
    latents = decode.Decode(batch=batch, keys=keys, heads=128, kv_heads=1)
    assert [decode.latent_splits(latents).splits] == asked(program, "latent", batch, 128, keys)


@pytest.mark.parametrize("size", [64, 128, 512])
@pytest.mark.parametrize("splits", [2, 4, 5, 16, 33, 64])
def test_threads_that_put_a_rows_parts_together(program: Path, splits: int, size: int) -> None:
    assert [decode.threads_of_row(splits, size)] == asked(program, "combine", splits, size)


@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 8), (8, 8), (6, 3)])
@pytest.mark.parametrize("tokens", [64, 96, 2048, 8192])
def test_tiles_of_prefill(program: Path, tokens: int, heads: int, kv_heads: int) -> None:
    shape = prefill.Prefill(
        tokens=tokens, batch=1, heads=heads, kv_heads=kv_heads, full_heads=heads, block_heads=heads
    )
    steps = asked(program, "block", tokens, heads, kv_heads)
    assert Counter(prefill.block_steps(shape)) == Counter(steps)
    assert [len(prefill.full_steps(shape))] == asked(program, "full", tokens, heads, kv_heads)


@pytest.mark.parametrize("tokens", [1, 16, 17, 64, 128, 1000, 1024, 2048, 2049, 8192])
@pytest.mark.parametrize("hidden", [512, 4096, 7168])
def test_blocks_of_the_router(program: Path, tokens: int, hidden: int) -> None:
    slices, stretches = moe.logit_slices(tokens, hidden), moe.stretches_per_slice(hidden)
    found = [moe.tokens_per_router_block(tokens), slices, stretches]
    assert found == asked(program, "router", tokens, hidden)


@pytest.mark.parametrize("rows", [1, 8, 127, 128, 255, 256, 4096])
@pytest.mark.parametrize("experts", [1, 8, 256])
def test_which_products_are_hoppers(program: Path, rows: int, experts: int) -> None:
    assert [takes_hopper(rows, experts)] == asked(program, "hopper", rows, experts)
