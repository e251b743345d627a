// A tile of attention on sm_90a: 128 rows of queries, and stages of 128 keys and values, which one warp loads
// by TMA for two warpgroups of 64 rows each.
#pragma once

#include "../common/hopper.cuh"
#include "../common/tensor_map.h"
#include "hopper_block_rows.cuh"

namespace r1trt::kernels::hla::prefill {

using namespace hopper;

constexpr int kGroupColumns = 64;  // 128 bytes of 16-bit elements: what one swizzled tile has
constexpr int kGroupBytes = kKeys * kSwizzleBytes;
static_assert(kGroupBytes % kTileAlignment == 0, "each is where tiles are aligned");
constexpr int kConsumerWarps = 8;
static_assert(kThreads == 3 * kWarpgroup, "a producer and two consumers");
constexpr int kConsumersBarrier = 1, kTurnBarrier = 2;  // and 3: one a warpgroup

template <class T_, int kQk_, int kV_, int kQueryTiles_, int kStages_>
struct TileOf {
  using T = T_;
  static constexpr int kQk = kQk_, kV = kV_;
  static constexpr int kQkGroups = kQk / kGroupColumns, kVGroups = kV / kGroupColumns;
  static constexpr int kQueryTiles = kQueryTiles_, kStages = kStages_;
};

// Groups of 64 columns, one behind the other; at the beginning of a block's shared memory.
template <class Tile>
struct Shared {
  char q[Tile::kQueryTiles][Tile::kQkGroups][kGroupBytes];
  char k[Tile::kStages][Tile::kQkGroups][kGroupBytes];
  char v[Tile::kStages][Tile::kVGroups][kGroupBytes];
  Barrier queries_full[Tile::kQueryTiles], queries_empty[Tile::kQueryTiles];
  Barrier keys_full[Tile::kStages], keys_empty[Tile::kStages];
  Barrier values_full[Tile::kStages], values_empty[Tile::kStages];
};

// NOTES: a reference to dynamic shared memory as it is declared, so that the compiler knows its address and
// computes those of tiles in uniform registers. It begins where it is aligned if nothing static lies in
// front.
#ifdef R1TRT_SIMT_HOST
#define R1TRT_HOPPER_SHARED(Type, name) \
  Type& name = *reinterpret_cast<Type*>(::simt::dynamicShared(::r1trt::kernels::hopper::kTileAlignment))
#else
#define R1TRT_HOPPER_SHARED(Type, name)                                                             \
  extern __shared__ __align__(::r1trt::kernels::hopper::kTileAlignment) char r1trt_hopper_shared[]; \
  Type& name = *reinterpret_cast<Type*>(r1trt_hopper_shared)
#endif

// By one thread; to be followed by a barrier.
template <class Tile>
__device__ __forceinline__ void initBarriers(Shared<Tile>& shared) {
  if (sharedAddress(&shared) % kTileAlignment != 0) __trap();
  for (int i = 0; i < Tile::kQueryTiles; ++i) {
    initBarrier(&shared.queries_full[i], 1);
    initBarrier(&shared.queries_empty[i], kConsumerWarps);
  }
  for (int i = 0; i < Tile::kStages; ++i) {
    initBarrier(&shared.keys_full[i], 1);
    initBarrier(&shared.values_full[i], 1);
    initBarrier(&shared.keys_empty[i], kConsumerWarps);
    initBarrier(&shared.values_empty[i], kConsumerWarps);
  }
  fenceBarrierInit();
}

// A place in a ring, and the parity of the phase in which it is full.
template <int kPlaces>
struct Place {
  int index = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++index == kPlaces) index = 0, parity ^= 1;
  }
};

// Where the producer or a consumer stands.
template <class Tile>
struct Position {
  Place<Tile::kQueryTiles> queries;
  Place<Tile::kStages> keys, values;
};

// Where a consumer's lane works: its warpgroup of two, and the first of its two rows in the tile.
struct Lane {
  int warpgroup, row;
  bool leads;
};

__device__ __forceinline__ Lane laneOf() {
  int const thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  // The shuffle tells the compiler that a warp's lanes have the same.
  int const warpgroup = __shfl_sync(kAllLanes, thread / kWarpgroup, 0);
  return {warpgroup, thread / kWarpSize * 16 + thread % kWarpSize / 4, thread % kWarpSize == 0};
}

// The two warpgroups multiply by turns, of which each has as many; the first one begins.
__device__ __forceinline__ void giveTurn(int warpgroup) {
  arriveSome<2 * kWarpgroup>(kTurnBarrier + warpgroup);
}
__device__ __forceinline__ void awaitTurn(int warpgroup) {
  syncSome<2 * kWarpgroup>(kTurnBarrier + warpgroup);
}
__device__ __forceinline__ void beginTurns(int warpgroup) {
  if (warpgroup == 0) giveTurn(0);
}

// Rows `begin` to `end` - 1 of a stage's values become 0: what nobody wrote may be anything, and nothing
// times a NaN is one. To be followed by `publishZeros`.
template <class Tile>
__device__ __forceinline__ void clearValues(Shared<Tile>& shared, int stage, int begin, int end) {
  int const thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  constexpr int kVectors = Tile::kVGroups * 8;  // of 16 bytes in a row
  for (int i = max(begin, 0) * kVectors + thread; i < min(end, kKeys) * kVectors; i += 2 * kWarpgroup) {
    int const row = i / kVectors, vector = i % kVectors;
    *reinterpret_cast<uint4*>(shared.v[stage][vector / 8] + row * kSwizzleBytes + vector % 8 * 16) = uint4{};
  }
}

// By all consumers.
__device__ __forceinline__ void publishZeros() {
  fenceStores();
  syncSome<kConsumersBarrier, 2 * kWarpgroup>();
}

}  // namespace r1trt::kernels::hla::prefill
