// Tiles of the full branch on sm_90a, and which of them a thread block has.
#pragma once

#include "hopper_votes.cuh"

namespace r1trt::kernels::hla::prefill {

// All tiles of a call, those of late tokens, which see most keys, first.
struct FullTiles {
  int32_t of_tokens;  // tiles of a batch row and a head
  Schedule schedule;
  Divisor heads, batch, group;
  BlockTiles block;  // of the block branch, at whose tokens these begin, too; that of positions 0 without lam
};

inline FullTiles fullTilesOf(HlaAttentionParams const& p, int num_sms) {
  FullTiles tiles{};
  tiles.heads = Divisor(p.heads);
  tiles.batch = Divisor(p.batch);
  tiles.group = Divisor(p.heads / p.kv_heads);
  tiles.block = tilesOf(p, num_sms);
  tiles.of_tokens = tiles.block.of_tokens >> tiles.block.heads_log;
  tiles.schedule = scheduleOf(int64_t{tiles.of_tokens} * p.batch * p.heads, num_sms);
  return tiles;
}

struct FullRows {
  int b, head, kv_head;
  int token0;  // may lie in front of the first token
  int tokens, past;
  int keys;  // that any row sees
};

__device__ __forceinline__ FullRows fullRowsOf(Attention const& a, FullTiles const& tiles, int tile) {
  FullRows rows;
  int const of_heads = tiles.heads.divide(tile), of_batch = tiles.batch.divide(of_heads);
  rows.head = tiles.heads.remainder(tile);
  rows.kv_head = tiles.group.divide(rows.head);
  rows.b = tiles.batch.remainder(of_heads);
  rows.tokens = tokensOf(a.params, rows.b);
  rows.past = static_cast<int>(pastOf(a.params, rows.b));
  rows.token0 = (tiles.of_tokens - 1 - of_batch) * kRows - tiles.block.begin.remainder(rows.past);
  int const last = min(rows.token0 + kRows, rows.tokens) - 1 + rows.past;
  rows.keys = min(last + 1, static_cast<int>(a.slots));
  return rows;
}

constexpr int kTilesAtOnce = 8;  // that a thread looks at, by loads that do not wait for one another

// Which of a thread's tiles have weight, a bit each: `first` and every 32nd behind it.
__device__ __forceinline__ uint32_t lookAtTiles(Attention const& a, FullTiles const& tiles, int first) {
  uint32_t needed = 0;
  if (a.params.lam == nullptr) {
#pragma unroll 1
    for (int i = 0, tile = first; i < kTilesAtOnce && tile < tiles.schedule.tiles; ++i, tile += kWarpSize) {
      FullRows const rows = fullRowsOf(a, tiles, tile);
      needed |= (rows.token0 < rows.tokens ? 1U : 0U) << i;
    }
    return needed;
  }
  uint4 votes[kTilesAtOnce] = {};
  int64_t const bytes = voteBytes(tiles.block);
#pragma unroll
  for (int i = 0; i < kTilesAtOnce; ++i) {
    int const tile = first + i * kWarpSize;
    if (tile < tiles.schedule.tiles) votes[i] = *reinterpret_cast<uint4 const*>(a.votes + tile * bytes);
  }
#pragma unroll
  for (int i = 0; i < kTilesAtOnce; ++i) {
    int const tile = first + i * kWarpSize;
    bool const exists = tile < tiles.schedule.tiles;
    if (exists && hasVotes(a, tiles.block, tile, votes[i])) needed |= 1U << i;
  }
  return needed;
}

// A thread block's tiles, with what it takes to find them.
struct TileList {
  static constexpr int kWords = kThreads / kWarpSize * kTilesAtOnce;
  uint32_t needed[kWords];
  int before[kWords];  // needed tiles in front of a word's
  int total;           // needed tiles
  int tiles[kMaxRounds];

  // How many of them there are.
  __device__ __forceinline__ int size(Schedule const& schedule, int block) const {
    int const rounds = schedule.blocks.divide(total), rest = schedule.blocks.remainder(total);
    return rounds + (placeInRound(schedule, rounds, block) < rest ? 1 : 0);
  }
};

// By one warp.
__device__ __forceinline__ void countNeeded(TileList& list, int total) {
  constexpr int kOfLane = TileList::kWords / kWarpSize;
  static_assert(TileList::kWords % kWarpSize == 0, "a lane has as many words as the next");
  int const lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int mine = 0;
#pragma unroll
  for (int i = 0; i < kOfLane; ++i) mine += __popc(list.needed[lane * kOfLane + i]);
  int sum = mine;
#pragma unroll
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    int const other = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane >= distance) sum += other;
  }
  int before = total + sum - mine;
#pragma unroll
  for (int i = 0; i < kOfLane; ++i) {
    list.before[lane * kOfLane + i] = before;
    before += __popc(list.needed[lane * kOfLane + i]);
  }
  if (lane == kWarpSize - 1) list.total = before;
}

// The needed tiles are dealt out in order, round by round. By all threads.
__device__ __forceinline__ void listTiles(Attention const& a, FullTiles const& tiles, int block,
                                          TileList& list) {
  Schedule const& schedule = tiles.schedule;
  int const thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize;
  int const word0 = thread / kWarpSize * kTilesAtOnce;
  int total = 0;
  for (int begin = 0; begin < schedule.tiles; begin += TileList::kWords * kWarpSize) {
    int const first = begin + word0 * kWarpSize + lane;
    uint32_t const needed = lookAtTiles(a, tiles, first);
#pragma unroll 1
    for (int i = 0; i < kTilesAtOnce; ++i) {
      uint32_t const votes = __ballot_sync(kAllLanes, needed >> i & 1);
      if (lane == 0) list.needed[word0 + i] = votes;
    }
    __syncthreads();
    if (thread < kWarpSize) countNeeded(list, total);
    __syncthreads();
    total = list.total;
#pragma unroll 1
    for (int i = 0; i < kTilesAtOnce; ++i) {
      uint32_t const votes = list.needed[word0 + i];
      int const at = list.before[word0 + i] + __popc(votes & ((1U << lane) - 1U));
      int const round = schedule.blocks.divide(at), place = schedule.blocks.remainder(at);
      bool const mine = placeInRound(schedule, round, block) == place;
      if ((votes >> lane & 1) != 0 && mine) list.tiles[round] = first + i * kWarpSize;
    }
    __syncthreads();  // `needed` is read
  }
}

}  // namespace r1trt::kernels::hla::prefill
