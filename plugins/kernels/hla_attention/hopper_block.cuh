// A tile of the block branch on sm_90a, from its keys in global memory to y.
#pragma once

#include "hopper_block_rounds.cuh"
#include "hopper_output.cuh"
#include "hopper_prefill.h"

namespace r1trt::kernels::hla::prefill {

constexpr int kBlockProducerRegisters = 40, kBlockConsumerRegisters = 232;

struct BlockCall {
  CUtensorMap queries, first_keys, own_keys, first_values, own_values;
  Attention a;
  BlockTiles tiles;
};

template <class Tile>
struct BlockShared {
  Shared<Tile> tile;
  uint32_t needed[kRoundWords];  // a bit a round
};

// One tile after the other: work(rows, keys).
template <class Work>
__device__ __forceinline__ void forRounds(BlockCall const& call, uint32_t const (&needed)[kRoundWords],
                                          Work const& work) {
  for (int round = 0; round < call.tiles.schedule.rounds; ++round) {
    if ((needed[round / 32] >> round % 32 & 1U) == 0) continue;
    BlockRows const rows =
        rowsOf(call.a, call.tiles, tileOf(call.tiles.schedule, round, static_cast<int>(blockIdx.x)));
    work(rows, keysOf(call.a, call.tiles, rows));
  }
}

// 128 keys or values of a list.
template <int kGroups>
__device__ __forceinline__ void loadBoxes(BlockCall const& call, BlockKeys const& keys, int tile,
                                          char (&stage)[kGroups][kGroupBytes], CUtensorMap const* firsts,
                                          CUtensorMap const* own, Barrier* full, int column, int matrix) {
  arriveExpecting(full, kGroups * kGroupBytes);
#pragma unroll 1
  for (int box = 0; box < kBoxesOfTile; ++box) {
    BoxPlace const place = placeOf(call.a, keys, tile * kBoxesOfTile + box);
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      loadBox(stage[group] + box * kBoxKeys * kSwizzleBytes, place.firsts ? firsts : own, full,
              column + group * kGroupColumns, place.row, matrix);
    }
  }
}

template <class Tile>
__device__ __forceinline__ void loadQueries(BlockCall const& call, BlockRows const& rows,
                                            Shared<Tile>& shared, Position<Tile>& at) {
  int const place = at.queries.index;
  wait(&shared.queries_empty[place], at.queries.parity ^ 1);
  arriveExpecting(&shared.queries_full[place], Tile::kQkGroups * kGroupBytes);
#pragma unroll
  for (int group = 0; group < Tile::kQkGroups; ++group) {
    loadBox(shared.q[place][group], &call.queries, &shared.queries_full[place], group * kGroupColumns,
            rows.head0, rows.b * call.a.params.seq + rows.token0);
  }
  at.queries.advance();
}

template <class Tile>
__device__ __forceinline__ void produceTile(BlockCall const& call, BlockRows const& rows,
                                            BlockKeys const& keys, Shared<Tile>& shared, Position<Tile>& at) {
  HlaAttentionParams const& p = call.a.params;
  bool const cached = p.key_cache != nullptr;
  int const matrix = cached ? rows.b * p.kv_heads + rows.kv_head : rows.b;
  int const head_column = cached ? 0 : rows.kv_head;
  loadQueries(call, rows, shared, at);
  for (int tile = keys.tiles() - 1; tile >= 0; --tile) {
    int const stage = at.keys.index;
    wait(&shared.keys_empty[stage], at.keys.parity ^ 1);
    loadBoxes(call, keys, tile, shared.k[stage], &call.first_keys, &call.own_keys, &shared.keys_full[stage],
              head_column * Tile::kQk, matrix);
    wait(&shared.values_empty[stage], at.keys.parity ^ 1);
    loadBoxes(call, keys, tile, shared.v[stage], &call.first_values, &call.own_values,
              &shared.values_full[stage], head_column * Tile::kV, matrix);
    at.keys.advance();
  }
}

// What a lane's two rows see of the list, and the keys that every row of its warpgroup sees.
struct BlockSights {
  BlockSight row[2];
  int common;
  Unwritten unwritten;

  __device__ __forceinline__ BlockSights(BlockCall const& call, BlockRows const& rows, BlockKeys const& keys,
                                         Lane const& lane)
      : row{sightOf(call.a, call.tiles, rows, keys, rows.token(call.tiles, lane.row)),
            sightOf(call.a, call.tiles, rows, keys, rows.token(call.tiles, lane.row + 8))},
        common(sightOf(call.a, call.tiles, rows, keys, rows.token(call.tiles, lane.warpgroup * 64)).firsts),
        unwritten(unwrittenOf(call.a, call.tiles, rows, keys)) {}

  __device__ __forceinline__ void hide(float (&s)[kScores], int tile) const {
    if ((tile + 1) * kKeys <= common) return;
    uint32_t seen[2][kWords];
#pragma unroll
    for (int i = 0; i < 2 * kWords; ++i) {
      seen[i / kWords][i % kWords] = row[i / kWords].word(tile * kKeys + i % kWords * 32);
    }
    hideUnseen(s, seen);
  }

  template <class Tile>
  __device__ __forceinline__ void clear(Shared<Tile>& shared, int stage, int tile) const {
    int const first = tile * kKeys;
    if (!unwritten.among(first, kKeys)) return;
#pragma unroll
    for (int i = 0; i < 2; ++i)
      clearValues(shared, stage, unwritten.begin[i] - first, unwritten.end[i] - first);
    publishZeros();
  }
};

template <class Tile>
__device__ __forceinline__ Target<typename Tile::T> blockTarget(BlockCall const& call, BlockRows const& rows,
                                                                int row) {
  int const token = rows.token(call.tiles, row);
  if (!isOurs(call.a, call.tiles, rows, token)) return {};
  return targetOf<Tile>(call.a.params, rows.b, token, rows.head(call.tiles, row));
}

template <class Tile>
__device__ __forceinline__ void consumeTile(BlockCall const& call, BlockRows const& rows,
                                            BlockKeys const& keys, Lane const& lane, Shared<Tile>& shared,
                                            Position<Tile>& at) {
  BlockSights const sights(call, rows, keys, lane);
  Target<typename Tile::T> const targets[2] = {blockTarget<Tile>(call, rows, lane.row),
                                               blockTarget<Tile>(call, rows, lane.row + 8)};
  Sums<Tile> sums;
  attend<false>(shared, lane, sights, keys.tiles(), call.a.scale_log2, at, sums);
  // (1 - lam) O / l.
  storeRows(sums, targets, [&](float lam) { return Share{1.0F - countedLam(call.a.params, lam), false}; });
}

}  // namespace r1trt::kernels::hla::prefill
