// Which of a thread block's tiles of the block branch have work on sm_90a, and the votes for the full branch:
// all of a call's lam is looked at here.
#pragma once

#include "hopper_votes.cuh"

namespace r1trt::kernels::hla::prefill {

constexpr int kRoundWords = kMaxRounds / 32;

// 0 where there is no token.
__device__ __forceinline__ float lamOfRow(Attention const& a, BlockTiles const& tiles, int tile, int row) {
  BlockRows const rows = rowsOf(a, tiles, tile);
  int const token = rows.token(tiles, row);
  int64_t const place = static_cast<int64_t>(rows.b) * a.params.seq + token;
  return isToken(rows, token) ? a.params.lam[place * a.params.heads + rows.head(tiles, row)] : 0.0F;
}

// Whether one of the warp's 32 rows has weight in the block branch and is computed here; votes for the full
// branch. `full` and `block`: whether the lane's lam says that it has weight.
__device__ __forceinline__ bool hasWork(Attention const& a, BlockTiles const& tiles, int tile, int row,
                                        bool full, bool block) {
  BlockRows const rows = rowsOf(a, tiles, tile);
  int const token = rows.token(tiles, row);
  vote(a, tiles, rows, row, full && isToken(rows, token));
  return __any_sync(kAllLanes, block && isOurs(a, tiles, rows, token) ? 1 : 0) != 0;
}

// Of 32 rounds from `begin` on, those of which this warp says that they have work. A thread looks at a row of
// every third round, by loads that do not wait for one another.
__device__ __forceinline__ uint32_t lookAtRounds(Attention const& a, BlockTiles const& tiles, int block_index,
                                                 int begin) {
  constexpr int kAtOnce = 4, kStep = kThreads / kRows;
  Schedule const& schedule = tiles.schedule;
  int const row = static_cast<int>(threadIdx.x) % kRows, end = min(schedule.rounds, begin + 32);
  uint32_t needed = 0;
#pragma unroll 1
  for (int first = begin + static_cast<int>(threadIdx.x) / kRows; first < end; first += kStep * kAtOnce) {
    float lam[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      int const round = first + i * kStep, tile = tileOf(schedule, round, block_index);
      if (round < end && tile < schedule.tiles) lam[i] = lamOfRow(a, tiles, tile, row);
    }
    uint32_t full = 0, block = 0;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      float const counted = countedLam(a.params, lam[i]);
      full |= (counted > 0.0F ? 1U : 0U) << i, block |= (counted < 1.0F ? 1U : 0U) << i;
    }
#pragma unroll 1
    for (int i = 0; i < kAtOnce; ++i) {
      int const round = first + i * kStep, tile = tileOf(schedule, round, block_index);
      if (round >= end || tile >= schedule.tiles) continue;
      bool const works = hasWork(a, tiles, tile, row, (full >> i & 1) != 0, (block >> i & 1) != 0);
      needed |= (works ? 1U : 0U) << round % 32;
    }
  }
  return needed;
}

// A bit a round that has work; by all threads, to be followed by a barrier.
__device__ __forceinline__ void listRounds(Attention const& a, BlockTiles const& tiles, int block,
                                           uint32_t (&needed)[kRoundWords]) {
  int const thread = static_cast<int>(threadIdx.x);
  if (thread < kRoundWords) needed[thread] = 0;
  __syncthreads();
  for (int word = 0; word * 32 < tiles.schedule.rounds; ++word) {
    uint32_t const mine = lookAtRounds(a, tiles, block, word * 32);
    if (thread % kWarpSize == 0 && mine != 0) atomicOr(&needed[word], mine);
  }
}

}  // namespace r1trt::kernels::hla::prefill
