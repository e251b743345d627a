// One block of the full branch on sm_90a: 128 tokens of a query head against its keys, 128 at a time, from
// the last ones to the first.
//
// Legend, as in FlashAttention: S scores, P weights, O output, m a row's largest score, l the sum of its
// weights. A lane has the rows lane / 4 and lane / 4 + 8 of its warp's 16; of every 8 columns two.
#pragma once

#include "../common/hopper.cuh"
#include "../common/tensor_map.h"
#include "hopper_attention.h"
#include "hopper_softmax.cuh"

namespace r1trt::kernels::hla {

constexpr int kRows = 128, kKeys = 128, kStages = 2;
constexpr int kGroupColumns = 64;  // 128 bytes of 16-bit elements: what one swizzled tile has
constexpr int kGroupBytes = kKeys * kSwizzleBytes;
constexpr int kConsumerWarps = 8, kThreads = 3 * kWarpgroup;
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
constexpr int kConsumersBarrier = 1;

template <class T_, int kQk_, int kV_>
struct TileOf {
  using T = T_;
  static constexpr int kQk = kQk_, kV = kV_;
  static constexpr int kQkGroups = kQk / kGroupColumns, kVGroups = kV / kGroupColumns;
};

struct Call {
  CUtensorMap queries, keys, values;
  Attention a;
};

// Groups of 64 columns, one behind the other.
template <class Tile>
struct Shared {
  alignas(kTileAlignment) char q[Tile::kQkGroups][kGroupBytes];
  alignas(kTileAlignment) char k[kStages][Tile::kQkGroups][kGroupBytes];
  alignas(kTileAlignment) char v[kStages][Tile::kVGroups][kGroupBytes];
  Barrier queries, keys_full[kStages], keys_empty[kStages], values_full[kStages], values_empty[kStages];
};

struct Work {
  int b, head, kv_head;
  int token0, tokens, past;
  int keys;                               // that any row sees
  int key_row, key_column, value_column;  // of the first key in its matrix
};

template <class Tile>
__device__ Work findWork(Call const& call) {
  HlaAttentionParams const& p = call.a.params;
  Work work;
  work.b = static_cast<int>(blockIdx.z);
  work.head = static_cast<int>(blockIdx.x);
  work.kv_head = work.head / call.a.group;
  // Late tokens see most keys: their blocks start first.
  work.token0 = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kRows;
  work.tokens = tokensOf(p, work.b);
  work.past = static_cast<int>(pastOf(p, work.b));
  int const last = min(work.token0 + kRows, work.tokens) - 1 + work.past;
  work.keys = min(last + 1, static_cast<int>(call.a.slots));
  bool const cached = p.key_cache != nullptr;
  work.key_row =
      cached ? (work.b * p.kv_heads + work.kv_head) * static_cast<int>(call.a.slots) : work.b * p.seq;
  work.key_column = cached ? 0 : work.kv_head * Tile::kQk;
  work.value_column = cached ? 0 : work.kv_head * Tile::kV;
  return work;
}

template <int kGroups>
__device__ void loadGroups(char (&tile)[kGroups][kGroupBytes], CUtensorMap const* map, Barrier* full,
                           int column, int row) {
  arriveExpecting(full, kGroups * kGroupBytes);
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    loadTile(tile[group], map, full, column + group * kGroupColumns, row);
  }
}

template <class Tile>
__device__ void produce(Call const& call, Work const& work, Shared<Tile>& shared) {
  loadGroups(shared.q, &call.queries, &shared.queries, work.head * Tile::kQk,
             work.b * call.a.params.seq + work.token0);
  int stage = 0;
  uint32_t parity = 1;
  for (int tile = ceilDiv(work.keys, kKeys) - 1; tile >= 0; --tile) {
    int const row = work.key_row + tile * kKeys;
    wait(&shared.keys_empty[stage], parity);
    loadGroups(shared.k[stage], &call.keys, &shared.keys_full[stage], work.key_column, row);
    wait(&shared.values_empty[stage], parity);
    loadGroups(shared.v[stage], &call.values, &shared.values_full[stage], work.value_column, row);
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
}

constexpr int kScores = kKeys / 2;  // of a lane, and half as many registers of weights

// Keys behind a row's position are not seen: `limit` is the last one's index in the tile.
__device__ __forceinline__ void mask(float (&s)[kScores], int const (&limit)[2]) {
  int const column = static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
  for (int i = 0; i < kScores; ++i) {
    if (i / 4 * 8 + column + i % 2 > limit[i / 2 % 2]) s[i] = -INFINITY;
  }
}

// Values behind the last key may be anything, and nothing times a NaN is one.
template <class Tile>
__device__ __forceinline__ void clearValues(Shared<Tile>& shared, int stage, int keys) {
  int const thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  constexpr int kVectors = Tile::kVGroups * 8;  // of 16 bytes in a row
  for (int i = keys * kVectors + thread; i < kKeys * kVectors; i += 2 * kWarpgroup) {
    int const row = i / kVectors, vector = i % kVectors;
    *reinterpret_cast<uint4*>(shared.v[stage][vector / 8] + row * kSwizzleBytes + vector % 8 * 16) = uint4{};
  }
  fenceStores();
  syncSome<kConsumersBarrier, 2 * kWarpgroup>();
}

// y = lam O / l, and what the block branch left there where lam is below 1.
template <class Tile>
__device__ __forceinline__ void store(Call const& call, Work const& work, int row, Softmax const& softmax,
                                      float const (&o)[Tile::kV / 2]) {
  using T = typename Tile::T;
  HlaAttentionParams const& p = call.a.params;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    int const token = work.token0 + row + 8 * r;
    if (token >= work.tokens) continue;
    float const lam = lamOf(p, work.b, token, work.head);
    if (lam <= 0.0F) continue;
    float sum = softmax.l[r];
    float const factor = sum > 0.0F ? lam / sum : 0.0F;
    auto* y = static_cast<T*>(p.y) +
              ((static_cast<int64_t>(work.b) * p.seq + token) * p.heads + work.head) * Tile::kV;
    y += threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < Tile::kV / 8; ++n) {
      auto* const target = reinterpret_cast<Vector<T, 2>*>(y + n * 8);
      float low = o[4 * n + 2 * r] * factor, high = o[4 * n + 2 * r + 1] * factor;
      if (lam < 1.0F) {
        Vector<T, 2> const before = *target;
        low += toFloat(before.value[0]);
        high += toFloat(before.value[1]);
      }
      *target = Vector<T, 2>{{fromFloat<T>(low), fromFloat<T>(high)}};
    }
  }
}

// Where a lane works: its warpgroup of two, and the first of its two rows in the block.
struct Place {
  int warpgroup, row;
  bool leads;
};

// What a lane's rows see: the last slot of each, and the slot up to which every row of its warpgroup does.
// Of rows that are not there anything is computed, and nothing is stored.
struct Sight {
  int last[2], common;

  __device__ __forceinline__ Sight(Work const& work, Place const& place, int slots) {
    int const position = work.past + work.token0 + place.row;
    last[0] = min(position, slots - 1);
    last[1] = min(position + 8, slots - 1);
    common = min(work.past + work.token0 + place.warpgroup * 64, slots - 1);
  }

  __device__ __forceinline__ void hideUnseen(float (&s)[kScores], int tile) const {
    if (tile * kKeys + kKeys - 1 <= common) return;
    int const limit[2] = {last[0] - tile * kKeys, last[1] - tile * kKeys};
    mask(s, limit);
  }
};

template <class Tile>
struct Sums {
  float s[kScores], o[Tile::kV / 2], decay[2];
  uint32_t p[kScores / 8][4];
  Softmax softmax;
};

struct Stage {
  int index = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ Stage next() const {
    int const other = index ^ 1;
    return {other, parity ^ (other == 0 ? 1 : 0)};
  }
};

// The weights of the last keys, with which a block begins.
template <class Tile>
__device__ __forceinline__ void beginKeys(Call const& call, Work const& work, Shared<Tile>& shared,
                                          Place const& place, Sight const& sight, Sums<Tile>& sums) {
  wait(&shared.queries, 0);
  wait(&shared.keys_full[0], 0);
  beginScores<typename Tile::T>(shared.q, shared.k[0], place.warpgroup, sums.s);
  waitProducts<0>();
  holdRegisters(sums.s);
  if (place.leads) arrive(&shared.keys_empty[0]);
  sight.hideUnseen(sums.s, ceilDiv(work.keys, kKeys) - 1);
  sums.softmax.update(sums.s, call.a.scale_log2, sums.decay);
  packWeights<typename Tile::T>(sums.s, sums.p);
  wait(&shared.values_full[0], 0);
  if (work.keys % kKeys != 0) clearValues(shared, 0, work.keys % kKeys);
}

// The values of `now`, and beside them the weights of the keys in front, in `next`.
template <class Tile>
__device__ __forceinline__ void nextKeys(Call const& call, Shared<Tile>& shared, Place const& place,
                                         Sight const& sight, int tile, Stage now, Stage next,
                                         Sums<Tile>& sums) {
  wait(&shared.keys_full[next.index], next.parity);
  wait(&shared.values_full[now.index], now.parity);
  holdRegisters(sums.s);
  beginScores<typename Tile::T>(shared.q, shared.k[next.index], place.warpgroup, sums.s);
  holdRegisters(sums.o);
  beginValues<typename Tile::T>(shared.v[now.index], sums.p, sums.o);
  waitProducts<1>();
  holdRegisters(sums.s);
  if (place.leads) arrive(&shared.keys_empty[next.index]);
  sight.hideUnseen(sums.s, tile);
  sums.softmax.update(sums.s, call.a.scale_log2, sums.decay);
  waitProducts<0>();
  holdWeights(sums.p);
  holdRegisters(sums.o);
  if (place.leads) arrive(&shared.values_empty[now.index]);
  rescale(sums.o, sums.decay);
  packWeights<typename Tile::T>(sums.s, sums.p);
}

template <class Tile>
__device__ __forceinline__ void endKeys(Shared<Tile>& shared, Stage now, Sums<Tile>& sums) {
  wait(&shared.values_full[now.index], now.parity);
  holdRegisters(sums.o);
  beginValues<typename Tile::T>(shared.v[now.index], sums.p, sums.o);
  waitProducts<0>();
  holdWeights(sums.p);
  holdRegisters(sums.o);
  sums.softmax.end();
}

template <class Tile>
__device__ void consume(Call const& call, Work const& work, Shared<Tile>& shared) {
  int const thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  Place const place{thread / kWarpgroup, thread / kWarpSize * 16 + thread % kWarpSize / 4,
                    thread % kWarpSize == 0};
  Sight const sight(work, place, static_cast<int>(call.a.slots));
  Sums<Tile> sums;
#pragma unroll
  for (float& value : sums.o) value = 0.0F;
  beginKeys(call, work, shared, place, sight, sums);
  Stage now;
  for (int tile = ceilDiv(work.keys, kKeys) - 2; tile >= 0; --tile) {
    Stage const next = now.next();
    nextKeys(call, shared, place, sight, tile, now, next, sums);
    now = next;
  }
  endKeys(shared, now, sums);
  store<Tile>(call, work, place.row, sums.softmax, sums.o);
}

}  // namespace r1trt::kernels::hla
