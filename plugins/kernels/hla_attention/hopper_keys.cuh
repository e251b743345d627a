// Attention of a warpgroup's 64 rows to a tile's keys on sm_90a, 128 at a time, from the last ones to the
// first: the scores of the next keys are multiplied while this one's values are, and softmax runs beside
// both.
//
// `Sight` says what rows see: hide(s, tile) hides scores, clear(shared, stage, tile) clears values that
// nobody wrote; by all lanes of a warp, and of both warpgroups.
#pragma once

#include "hopper_prefill_tile.cuh"
#include "hopper_softmax.cuh"

namespace r1trt::kernels::hla::prefill {

constexpr int kScores = kKeys / 2;  // of a lane, and half as many registers of weights
constexpr int kWords = kKeys / 32;  // a bit a key

// Keys that a row does not see: `seen` has a bit a key.
__device__ __forceinline__ void hideUnseen(float (&s)[kScores], uint32_t const (&seen)[2][kWords]) {
  int const column = static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int word = 0; word < kWords; ++word) {
      uint32_t const mine = seen[r][word] >> column;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float& score = s[16 * word + i / 2 * 4 + 2 * r + i % 2];
        if ((mine & (1U << (i / 2 * 8 + i % 2))) == 0) score = -INFINITY;
      }
    }
  }
}

template <class Tile>
struct Sums {
  float s[kScores], o[Tile::kV / 2], decay[2];
  uint32_t p[kScores / 8][4];
  Softmax softmax;
};

// A tile's keys are read; with its first ones its queries are, too.
template <class Tile>
__device__ __forceinline__ void releaseKeys(Shared<Tile>& shared, Lane const& lane, int tile,
                                            Position<Tile>& at) {
  if (lane.leads) {
    arrive(&shared.keys_empty[at.keys.index]);
    if (tile == 0) arrive(&shared.queries_empty[at.queries.index]);
  }
  at.keys.advance();
}

// The weights of the last keys, with which a tile begins.
template <class Tile, class Sight>
__device__ __forceinline__ void beginKeys(Shared<Tile>& shared, Lane const& lane, Sight const& sight,
                                          int tile, float scale, Position<Tile>& at, Sums<Tile>& sums) {
  wait(&shared.queries_full[at.queries.index], at.queries.parity);
  wait(&shared.keys_full[at.keys.index], at.keys.parity);
  holdRegisters(sums.s);
  beginScores<typename Tile::T>(shared.q[at.queries.index], shared.k[at.keys.index], lane.warpgroup, sums.s);
  waitProducts<0>();
  holdRegisters(sums.s);
  releaseKeys(shared, lane, tile, at);
  sight.hide(sums.s, tile);
  sums.softmax.update(sums.s, scale, sums.decay);
  packWeights<typename Tile::T>(sums.s, sums.p);
}

// The values behind `tile`, and beside them the weights of `tile`.
template <bool kTurns, class Tile, class Sight>
__device__ __forceinline__ void nextKeys(Shared<Tile>& shared, Lane const& lane, Sight const& sight, int tile,
                                         float scale, Position<Tile>& at, Sums<Tile>& sums) {
  wait(&shared.keys_full[at.keys.index], at.keys.parity);
  wait(&shared.values_full[at.values.index], at.values.parity);
  sight.clear(shared, at.values.index, tile + 1);
  if constexpr (kTurns) awaitTurn(lane.warpgroup);
  holdRegisters(sums.s);
  beginScores<typename Tile::T>(shared.q[at.queries.index], shared.k[at.keys.index], lane.warpgroup, sums.s);
  holdRegisters(sums.o);
  beginValues<typename Tile::T>(shared.v[at.values.index], sums.p, sums.o);
  if constexpr (kTurns) giveTurn(lane.warpgroup ^ 1);
  waitProducts<1>();
  holdRegisters(sums.s);
  releaseKeys(shared, lane, tile, at);
  sight.hide(sums.s, tile);
  sums.softmax.update(sums.s, scale, sums.decay);
  waitProducts<0>();
  holdWeights(sums.p);
  holdRegisters(sums.o);
  if (lane.leads) arrive(&shared.values_empty[at.values.index]);
  at.values.advance();
  rescale(sums.o, sums.decay);
  packWeights<typename Tile::T>(sums.s, sums.p);
}

template <class Tile, class Sight>
__device__ __forceinline__ void endKeys(Shared<Tile>& shared, Lane const& lane, Sight const& sight,
                                        Position<Tile>& at, Sums<Tile>& sums) {
  wait(&shared.values_full[at.values.index], at.values.parity);
  sight.clear(shared, at.values.index, 0);
  holdRegisters(sums.o);
  beginValues<typename Tile::T>(shared.v[at.values.index], sums.p, sums.o);
  waitProducts<0>();
  holdWeights(sums.p);
  holdRegisters(sums.o);
  if (lane.leads) arrive(&shared.values_empty[at.values.index]);
  at.values.advance();
  sums.softmax.end();
}

// O, not yet divided by l. `tiles` is at least 1. kTurns: the warpgroups multiply by turns, which somebody
// began.
template <bool kTurns, class Tile, class Sight>
__device__ __forceinline__ void attend(Shared<Tile>& shared, Lane const& lane, Sight const& sight, int tiles,
                                       float scale, Position<Tile>& at, Sums<Tile>& sums) {
#pragma unroll
  for (float& value : sums.o) value = 0.0F;
  sums.softmax = Softmax{};
  beginKeys(shared, lane, sight, tiles - 1, scale, at, sums);
  for (int tile = tiles - 2; tile >= 0; --tile) nextKeys<kTurns>(shared, lane, sight, tile, scale, at, sums);
  endKeys(shared, lane, sight, at, sums);
  at.queries.advance();
}

}  // namespace r1trt::kernels::hla::prefill
