// What becomes of a tile's rows on sm_90a: y (+)= weight O / l.
#pragma once

#include "hopper_keys.cuh"

namespace r1trt::kernels::hla::prefill {

// A row's place in y, null where there is none, and its lam as it was loaded: nobody waits for that before
// the tile is done.
template <class T>
struct Target {
  T* y = nullptr;
  float lam = 1.0F;
};

template <class Tile>
__device__ __forceinline__ typename Tile::T* outputRow(HlaAttentionParams const& p, int b, int token,
                                                       int head) {
  return static_cast<typename Tile::T*>(p.y) +
         ((static_cast<int64_t>(b) * p.seq + token) * p.heads + head) * Tile::kV;
}

// Between four lanes that share a row: word i of lane j becomes word j of lane i.
__device__ __forceinline__ void transposeQuad(uint32_t (&words)[4]) {
  bool const odd = threadIdx.x % 2 != 0, high = threadIdx.x / 2 % 2 != 0;
  uint32_t const even = __shfl_xor_sync(kAllLanes, odd ? words[0] : words[1], 1);
  uint32_t const uneven = __shfl_xor_sync(kAllLanes, odd ? words[2] : words[3], 1);
  words[0] = odd ? even : words[0], words[1] = odd ? words[1] : even;
  words[2] = odd ? uneven : words[2], words[3] = odd ? words[3] : uneven;
  uint32_t const first = __shfl_xor_sync(kAllLanes, high ? words[0] : words[2], 2);
  uint32_t const second = __shfl_xor_sync(kAllLanes, high ? words[1] : words[3], 2);
  words[0] = high ? first : words[0], words[2] = high ? words[2] : first;
  words[1] = high ? second : words[1], words[3] = high ? words[3] : second;
}

template <class Tile>
__device__ __forceinline__ Target<typename Tile::T> targetOf(HlaAttentionParams const& p, int b, int token,
                                                             int head) {
  int64_t const place = (static_cast<int64_t>(b) * p.seq + token) * p.heads + head;
  return {outputRow<Tile>(p, b, token, head), p.lam != nullptr ? p.lam[place] : 1.0F};
}

// What a branch does to a row: nothing where its weight is 0.
struct Share {
  float weight;
  bool adds;  // to what is there
};

// What is in y before, of a lane's two rows: 8 columns beside one another of every 32.
template <class Tile>
struct Before {
  uint4 words[2][Tile::kV / 32];
  bool any[2];  // in the warp
};

// All at once: y is stored to behind these loads, and each would wait for itself.
template <class Tile>
__device__ __forceinline__ void loadBefore(typename Tile::T const* const (&y)[2], Before<Tile>& before) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    before.any[r] = __any_sync(kAllLanes, y[r] != nullptr ? 1 : 0) != 0;
#pragma unroll
    for (int i = 0; i < Tile::kV / 32; ++i) {
      auto const* const mine = reinterpret_cast<uint4 const*>(y[r] + i * 32 + threadIdx.x % 4 * 8);
      before.words[r][i] = y[r] != nullptr ? *mine : uint4{};
    }
  }
}

// A lane's 2 of every 8 columns, of 32, become 8 columns beside one another: 16 bytes. `shareOf(lam)` is the
// branch's.
template <class Tile, class ShareOf>
__device__ __forceinline__ void storeRows(Sums<Tile> const& sums,
                                          Target<typename Tile::T> const (&targets)[2],
                                          ShareOf const& shareOf) {
  using T = typename Tile::T;
  using Pair = Vector<T, 2>;
  T* y[2];
  T const* added[2];
  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    Share const share = shareOf(targets[r].lam);
    y[r] = share.weight > 0.0F ? targets[r].y : nullptr;
    added[r] = share.adds ? y[r] : nullptr;
    factor[r] = sums.softmax.l[r] > 0.0F ? share.weight / sums.softmax.l[r] : 0.0F;
  }
  Before<Tile> before;
  loadBefore<Tile>(added, before);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int part = 0; part < Tile::kV / 32; ++part) {
      uint4 const& mine = before.words[r][part];
      uint32_t words[4] = {mine.x, mine.y, mine.z, mine.w};
      if (before.any[r]) transposeQuad(words);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float const* const o = sums.o + (part * 4 + i) * 4 + 2 * r;
        Pair const pair = *reinterpret_cast<Pair const*>(&words[i]);
        float const low = o[0] * factor[r] + toFloat(pair.value[0]);
        float const high = o[1] * factor[r] + toFloat(pair.value[1]);
        words[i] = packPair<T>(low, high);
      }
      transposeQuad(words);
      auto* const target = reinterpret_cast<uint4*>(y[r] + part * 32 + threadIdx.x % 4 * 8);
      if (y[r] != nullptr) *target = uint4{words[0], words[1], words[2], words[3]};
    }
  }
}

}  // namespace r1trt::kernels::hla::prefill
