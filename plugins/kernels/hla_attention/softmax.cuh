// Scores of a tile's keys, online softmax over them, and the sum of their values, by mma.sync.
//
// Legend, as in FlashAttention-2 (https://arxiv.org/abs/2307.08691, algorithm 1): S scores, P weights, O
// output, m a row's largest score so far, l the sum of its weights. A lane has the rows lane / 4 and lane / 4
// + 8 of its warp's 16; of every 8 columns two. P takes the place of S in the registers.
#pragma once

#include "../common/mma.cuh"
#include "../common/numeric.cuh"
#include "tile.cuh"

namespace r1trt::kernels::hla {

template <class Tile>
struct SoftmaxState {
  float o[Tile::kValueTiles][4];
  float m[2], l[2];  // of the lane's two rows; scores are times log2(e)
};

// S = Q K^T of the warp's rows and keys.
template <class Tile>
__device__ __forceinline__ void scoreKeys(char const* queries, char const* keys, WarpPlace const& place,
                                          float (&s)[Tile::kKeyTiles][4]) {
  constexpr int kBytes = Tile::kQk * 2, kSteps = Tile::kQk / 16;
  // All of a long head would not fit the registers.
  constexpr int kUnrolled = Tile::kQk > 256 ? 2 : Tile::kQk > 128 ? 4 : kSteps;
  int const lane = place.lane;
#pragma unroll kUnrolled
  for (int step = 0; step < kSteps; ++step) {
    uint32_t a[4];
    ldmatrixX4(a, queries + swizzled<kBytes>(place.row0 + lane % 16, step * 2 + lane / 16));
#pragma unroll
    for (int n = 0; n < Tile::kKeyTiles; n += 2) {
      int const row = place.key0 + n * 8 + lane % 8 + lane / 16 * 8;
      uint32_t b[4];
      ldmatrixX4(b, keys + swizzled<kBytes>(row, step * 2 + lane / 8 % 2));
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        uint32_t const pair[2] = {b[2 * j], b[2 * j + 1]};
        Mma<typename Tile::T>::run(s[n + j], a, pair);
      }
    }
  }
}

// Scores of keys that a row does not see become -infinity; most tiles are seen as a whole.
template <class Tile, bool kBlockBranch>
__device__ __forceinline__ void maskScores(Visible const (&visible)[2], int index0, int lane,
                                           float (&s)[Tile::kKeyTiles][4]) {
  constexpr int kCount = Tile::kKeyTiles * 8;
  bool const all =
      seesAll<kBlockBranch>(visible[0], index0, kCount) && seesAll<kBlockBranch>(visible[1], index0, kCount);
  if (!__all_sync(kAllLanes, all ? 1 : 0)) {
#pragma unroll
    for (int n = 0; n < Tile::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int const index = index0 + n * 8 + lane % 4 * 2 + i % 2;
        if (!sees<kBlockBranch>(visible[i / 2], index)) s[n][i] = -INFINITY;
      }
    }
  }
}

// Online softmax: S becomes P = exp(S - m) with the new m, and what was summed is rescaled to it.
template <class Tile, bool kBlockBranch>
__device__ __forceinline__ void updateSoftmax(float scale, Visible const (&visible)[2], int index0, int lane,
                                              float (&s)[Tile::kKeyTiles][4], SoftmaxState<Tile>& state) {
  maskScores<Tile, kBlockBranch>(visible, index0, lane, s);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float m = state.m[r];
#pragma unroll
    for (int n = 0; n < Tile::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 2 * r; i < 2 * r + 2; ++i) {
        s[n][i] *= scale;
        m = fmaxf(m, s[n][i]);
      }
    }
    m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 1));
    m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 2));
    float const offset = m == -INFINITY ? 0.0F : m;  // no key yet: weights of 0
    float const decay = fastExp2(state.m[r] - offset);
    state.m[r] = m;
    state.l[r] *= decay;
    // The largest score soon stays what it is. A latent head's output fills the registers: a branch would
    // spill.
    if (Tile::kLatent || __any_sync(kAllLanes, decay != 1.0F ? 1 : 0)) {
#pragma unroll
      for (int n = 0; n < Tile::kValueTiles; ++n) {
        state.o[n][2 * r] *= decay;
        state.o[n][2 * r + 1] *= decay;
      }
    }
#pragma unroll
    for (int n = 0; n < Tile::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 2 * r; i < 2 * r + 2; ++i) {
        s[n][i] = fastExp2(s[n][i] - offset);
        state.l[r] += s[n][i];
      }
    }
  }
}

// O += P V.
template <class Tile>
__device__ __forceinline__ void addValues(char const* values, WarpPlace const& place,
                                          float const (&p)[Tile::kKeyTiles][4], SoftmaxState<Tile>& state) {
  using T = typename Tile::T;
  constexpr int kBytes = (Tile::kLatent ? Tile::kQk : Tile::kV) * 2;
  int const lane = place.lane;
#pragma unroll
  for (int step = 0; step < Tile::kKeyTiles / 2; ++step) {
    float const(&low)[4] = p[2 * step];
    float const(&high)[4] = p[2 * step + 1];
    uint32_t const a[4] = {packPair<T>(low[0], low[1]), packPair<T>(low[2], low[3]),
                           packPair<T>(high[0], high[1]), packPair<T>(high[2], high[3])};
#pragma unroll
    for (int n = 0; n < Tile::kValueTiles; n += 2) {
      uint32_t b[4];
      int const row = place.key0 + step * 16 + lane % 16;
      ldmatrixX4Transposed(b, values + swizzled<kBytes>(row, place.value0 / 8 + n + lane / 16));
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        uint32_t const pair[2] = {b[2 * j], b[2 * j + 1]};
        Mma<T>::run(state.o[n + j], a, pair);
      }
    }
  }
}

// Where a warp's part of row lane / 4 + r * 8 lies between warps: its output, largest score and sum.
template <class Tile>
__device__ __forceinline__ float* partialRow(char* memory, WarpPlace const& place, int part, int r) {
  constexpr int kPitch = Tile::kV + 2;
  return reinterpret_cast<float*>(memory) +
         (part * Tile::kRows + place.row0 + place.lane / 4 + r * 8) * kPitch;
}

template <class Tile>
__device__ __forceinline__ void storeForMerge(char* memory, WarpPlace const& place,
                                              SoftmaxState<Tile> const& state) {
  int const part = place.key0 / (Tile::kKeys / Tile::kWarpsKeys);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float* const mine = partialRow<Tile>(memory, place, part, r);
#pragma unroll
    for (int n = 0; n < Tile::kValueTiles; ++n) {
      int const column = place.value0 + n * 8 + place.lane % 4 * 2;
      mine[column] = state.o[n][2 * r];
      mine[column + 1] = state.o[n][2 * r + 1];
    }
    if (place.lane % 4 == 0) {
      mine[Tile::kV] = state.m[r];
      mine[Tile::kV + 1] = state.l[r];
    }
  }
}

// Adds up the warps that shared the keys, into the first of them, through the memory of the stages.
template <class Tile>
__device__ __forceinline__ void mergeKeys(char* memory, WarpPlace const& place, SoftmaxState<Tile>& state) {
  __syncthreads();  // no warp reads keys any more
  storeForMerge<Tile>(memory, place, state);
  __syncthreads();
  if (!place.writes) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float largest = -INFINITY;
    for (int i = 0; i < Tile::kWarpsKeys; ++i)
      largest = fmaxf(largest, partialRow<Tile>(memory, place, i, r)[Tile::kV]);
    float const offset = largest == -INFINITY ? 0.0F : largest;
    float sum = 0.0F, out[Tile::kValueTiles][2] = {};
    for (int i = 0; i < Tile::kWarpsKeys; ++i) {
      float const* const other = partialRow<Tile>(memory, place, i, r);
      float const share = fastExp2(other[Tile::kV] - offset);
      sum += other[Tile::kV + 1] * share;
#pragma unroll
      for (int n = 0; n < Tile::kValueTiles; ++n) {
        int const column = place.value0 + n * 8 + place.lane % 4 * 2;
        out[n][0] += other[column] * share;
        out[n][1] += other[column + 1] * share;
      }
    }
    state.m[r] = largest;
    state.l[r] = sum;
#pragma unroll
    for (int n = 0; n < Tile::kValueTiles; ++n) {
      state.o[n][2 * r] = out[n][0];
      state.o[n][2 * r + 1] = out[n][1];
    }
  }
}

}  // namespace r1trt::kernels::hla
