// A tile of the full branch on sm_90a, from its keys in global memory to y: 128 tokens of a query head.
#pragma once

#include "hopper_full_rows.cuh"
#include "hopper_output.cuh"
#include "hopper_prefill.h"

namespace r1trt::kernels::hla::prefill {

constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;

struct FullCall {
  CUtensorMap queries, keys, values;
  Attention a;
  FullTiles tiles;
};

template <class Tile>
struct FullShared {
  Shared<Tile> tile;
  TileList list;
};

// One tile after the other: work(rows).
template <class Work>
__device__ __forceinline__ void forTiles(FullCall const& call, TileList const& list, Work const& work) {
  int const size = list.size(call.tiles.schedule, static_cast<int>(blockIdx.x));
  for (int i = 0; i < size; ++i) work(fullRowsOf(call.a, call.tiles, list.tiles[i]));
}

// Of this block's share of all tiles, by all of its threads.
template <class Tile>
__device__ __forceinline__ void clearPadding(FullCall const& call) {
  HlaAttentionParams const& p = call.a.params;
  if (p.seq_len == nullptr && p.past_len == nullptr) return;
  constexpr int kVectors = Tile::kV / 8;  // of 16 bytes
  for (int tile = static_cast<int>(blockIdx.x); tile < call.tiles.schedule.tiles;
       tile += call.tiles.schedule.blocks.divisor) {
    FullRows const rows = fullRowsOf(call.a, call.tiles, tile);
    int const first = max(rows.token0, rows.tokens), end = min(rows.token0 + kRows, p.seq);
    for (int i = static_cast<int>(threadIdx.x); i < (end - first) * kVectors; i += kThreads) {
      auto* const y = outputRow<Tile>(p, rows.b, first + i / kVectors, rows.head);
      reinterpret_cast<uint4*>(y)[i % kVectors] = uint4{};
    }
  }
}

template <int kGroups>
__device__ __forceinline__ void loadGroups(char (&tile)[kGroups][kGroupBytes], CUtensorMap const* map,
                                           Barrier* full, int column, int row) {
  arriveExpecting(full, kGroups * kGroupBytes);
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    loadTile(tile[group], map, full, column + group * kGroupColumns, row);
  }
}

template <class Tile>
__device__ __forceinline__ void produceTile(FullCall const& call, FullRows const& rows, Shared<Tile>& shared,
                                            Position<Tile>& at) {
  HlaAttentionParams const& p = call.a.params;
  bool const cached = p.key_cache != nullptr;
  int const row0 =
      cached ? (rows.b * p.kv_heads + rows.kv_head) * static_cast<int>(call.a.slots) : rows.b * p.seq;
  int const key_column = cached ? 0 : rows.kv_head * Tile::kQk;
  int const value_column = cached ? 0 : rows.kv_head * Tile::kV;
  int const place = at.queries.index;
  wait(&shared.queries_empty[place], at.queries.parity ^ 1);
  loadGroups(shared.q[place], &call.queries, &shared.queries_full[place], rows.head * Tile::kQk,
             rows.b * p.seq + rows.token0);
  at.queries.advance();
  for (int tile = ceilDiv(rows.keys, kKeys) - 1; tile >= 0; --tile) {
    int const row = row0 + tile * kKeys, stage = at.keys.index;
    wait(&shared.keys_empty[stage], at.keys.parity ^ 1);
    loadGroups(shared.k[stage], &call.keys, &shared.keys_full[stage], key_column, row);
    wait(&shared.values_empty[stage], at.keys.parity ^ 1);
    loadGroups(shared.v[stage], &call.values, &shared.values_full[stage], value_column, row);
    at.keys.advance();
  }
}

// What a lane's rows see: the last slot of each, and the slot up to which every row of its warpgroup does.
// Of rows that are not there anything is computed, and nothing is stored.
struct FullSight {
  int last[2], common, written;

  __device__ __forceinline__ FullSight(FullRows const& rows, Lane const& lane, int slots) {
    int const position = rows.past + rows.token0 + lane.row;
    last[0] = min(position, slots - 1);
    last[1] = min(position + 8, slots - 1);
    common = min(rows.past + rows.token0 + lane.warpgroup * 64, slots - 1);
    written = min(rows.past + rows.tokens, slots);
  }

  __device__ __forceinline__ void hide(float (&s)[kScores], int tile) const {
    if (tile * kKeys + kKeys - 1 <= common) return;
    uint32_t seen[2][kWords];
#pragma unroll
    for (int i = 0; i < 2 * kWords; ++i) {
      seen[i / kWords][i % kWords] = bitsBelow(last[i / kWords] + 1 - tile * kKeys - i % kWords * 32);
    }
    hideUnseen(s, seen);
  }

  template <class Tile>
  __device__ __forceinline__ void clear(Shared<Tile>& shared, int stage, int tile) const {
    if ((tile + 1) * kKeys <= written) return;
    clearValues(shared, stage, written - tile * kKeys, kKeys);
    publishZeros();
  }
};

template <class Tile>
__device__ __forceinline__ Target<typename Tile::T> fullTarget(Attention const& a, FullRows const& rows,
                                                               int token) {
  if (token < 0 || token >= rows.tokens) return {};
  return targetOf<Tile>(a.params, rows.b, token, rows.head);
}

template <class Tile>
__device__ __forceinline__ void consumeTile(FullCall const& call, FullRows const& rows, Lane const& lane,
                                            Shared<Tile>& shared, Position<Tile>& at) {
  FullSight const sight(rows, lane, static_cast<int>(call.a.slots));
  Target<typename Tile::T> const targets[2] = {fullTarget<Tile>(call.a, rows, rows.token0 + lane.row),
                                               fullTarget<Tile>(call.a, rows, rows.token0 + lane.row + 8)};
  Sums<Tile> sums;
  attend<true>(shared, lane, sight, ceilDiv(rows.keys, kKeys), call.a.scale_log2, at, sums);
  // lam O / l, and what the block branch left there where lam is below 1.
  storeRows(sums, targets, [&](float lam) {
    float const counted = countedLam(call.a.params, lam);
    return Share{counted, counted < 1.0F};
  });
}

}  // namespace r1trt::kernels::hla::prefill
