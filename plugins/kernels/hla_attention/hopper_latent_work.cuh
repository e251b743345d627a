// What a block of the latent form has on sm_90a: its rows and keys, its shared memory, and what loads that.
#pragma once

#include "../common/hopper.cuh"
#include "../common/numeric.cuh"
#include "hopper_latent.h"

namespace r1trt::kernels::hla::latent {

using namespace hopper;

constexpr int kRows = kLatentRows, kKeys = kLatentKeys, kStages = 2;
constexpr int kGroupColumns = 64;  // 128 bytes of 16-bit elements: what one swizzled tile has
constexpr int kGroupBytes = kKeys * kSwizzleBytes;
constexpr int kGroups = kLatentQk / kGroupColumns, kHalfGroups = kLatentV / kGroupColumns / 2;
constexpr int kHalf = kLatentV / 2;  // columns of a warpgroup
constexpr int kWarpgroupWarps = kWarpgroup / kWarpSize, kConsumers = 2 * kWarpgroup;
constexpr int kThreads = kWarpgroup + kConsumers;
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
constexpr int kScores = kKeys / 2, kOutputs = kHalf / 2;  // of a lane
// Named barriers: a warpgroup alone; both.
constexpr int kWarpgroupBarrier = 1, kConsumersBarrier = 3;

static_assert(kRows == kKeys, "a box has as many rows of queries as of keys");

// Of a tile: the values' columns of each warpgroup, and what only the scores need. Each is loaded, and given
// back, on its own.
enum Part { kLeft, kRight, kRest, kParts };

// In the order in which they are loaded.
__device__ __forceinline__ constexpr int partAt(int i) {
  return (i + kRest) % kParts;
}
__device__ __forceinline__ constexpr int firstGroup(int part) {
  return part * kHalfGroups;
}
__device__ __forceinline__ constexpr int groupsOf(int part) {
  return part == kRest ? kGroups - 2 * kHalfGroups : kHalfGroups;
}

struct Call {
  CUtensorMap queries, keys;
  Attention a;
};

// What a block works on. Rows are of tokens and heads, in this order.
struct Work {
  int split, past;
  int row0, rows, all_rows;  // the block's first row; of the batch row those that are no padding, and all
  int keys;                  // that any of the block's rows sees
  int common;                // keys that all of them see
  int key_row;               // of the first key in its matrix
  int first, tiles;          // this split's
  int64_t query_row;         // of the block's first row in its matrix
};

// Groups of 64 columns, one behind the other. The weights are written by one warpgroup and read by the other
// alone, in turns; so is m.
// NOTES: the work lies here because its registers would be spilled.
struct Shared {
  alignas(kTileAlignment) char q[kGroups][kGroupBytes];
  alignas(kTileAlignment) char k[kStages][kGroups][kGroupBytes];
  alignas(kTileAlignment) char p[kGroupBytes];
  float m[kRows], l[2][kRows];
  Barrier queries, full[kStages][kParts], empty[kStages][kParts], given[2];
  Work work;
};

__device__ __forceinline__ Work findWork(Attention const& a) {
  HlaAttentionParams const& p = a.params;
  int const b = static_cast<int>(blockIdx.z), slots = static_cast<int>(a.slots);
  Work work;
  work.split = static_cast<int>(blockIdx.y);
  work.past = static_cast<int>(pastOf(p, b));
  // Late tokens see most keys: their blocks start first.
  work.row0 = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows;
  work.rows = tokensOf(p, b) * p.heads;
  work.all_rows = p.seq * p.heads;
  int const last_row = min(work.row0 + kRows, work.rows) - 1;
  work.keys = min(work.past + last_row / p.heads + 1, slots);
  work.common = min(work.past + work.row0 / p.heads + 1, slots);
  work.key_row = b * slots;
  int const tiles = ceilDiv(work.keys, kKeys);
  static_assert(INT32_MAX / 2 / kKeys <= INT32_MAX / kMaxSplits, "of the most slots that there are");
  work.first = tiles * work.split / a.splits;
  work.tiles = tiles * (work.split + 1) / a.splits - work.first;
  work.query_row = static_cast<int64_t>(b) * work.all_rows + work.row0;
  return work;
}

// Rows of padding give 0.
template <class T>
__device__ __forceinline__ void clearPadding(Attention const& a, Work const& work) {
  constexpr int kVectors = kLatentV / kVectorSize<T>;
  int const first = max(work.rows - work.row0, 0), end = min(kRows, work.all_rows - work.row0);
  auto* const y = static_cast<uint4*>(a.params.y) + work.query_row * kVectors;
  for (int i = first * kVectors + static_cast<int>(threadIdx.x); i < end * kVectors; i += kThreads) {
    y[i] = uint4{};
  }
}

// A tile's stage, and the parity of the round in which it is there.
struct Stage {
  int index;
  uint32_t parity;
  __device__ __forceinline__ explicit Stage(int tile) : index(tile % kStages), parity(tile / kStages % 2) {}
};

__device__ __forceinline__ void loadGroups(char (*target)[kGroupBytes], CUtensorMap const* map, Barrier* full,
                                           int first, int count, int row) {
  arriveExpecting(full, count * kGroupBytes);
  for (int group = first; group < first + count; ++group) {
    loadTile(target[group], map, full, group * kGroupColumns, row);
  }
}

__device__ __forceinline__ void produce(Call const& call, Shared& shared) {
  Work const& work = shared.work;
  if (work.tiles == 0) return;
  loadGroups(shared.q, &call.queries, &shared.queries, 0, kGroups, static_cast<int>(work.query_row));
  for (int tile = 0; tile < work.tiles; ++tile) {
    Stage const stage(tile);
    int const row = work.key_row + (work.first + tile) * kKeys;
    for (int i = 0; i < kParts; ++i) {
      int const part = partAt(i);
      wait(&shared.empty[stage.index][part], stage.parity ^ 1);
      loadGroups(shared.k[stage.index], &call.keys, &shared.full[stage.index][part], firstGroup(part),
                 groupsOf(part), row);
    }
  }
}

}  // namespace r1trt::kernels::hla::latent
