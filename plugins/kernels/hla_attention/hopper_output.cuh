// What becomes of a tile's rows on sm_90a: y (+)= weight O / l.
#pragma once

#include "hopper_keys.cuh"

namespace r1trt::kernels::hla::prefill {

// A row's place in y, null where it is not stored, and whether what is there is added.
template <class T>
struct Target {
  T* y = nullptr;
  float weight = 0.0F;
  bool add = false;
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

// A lane's 2 of every 8 columns, of 32, become 8 columns beside one another: 16 bytes.
template <class Tile>
__device__ __forceinline__ void storeRows(Sums<Tile> const& sums,
                                          Target<typename Tile::T> const (&targets)[2]) {
  using T = typename Tile::T;
  using Pair = Vector<T, 2>;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    Target<T> const& target = targets[r];
    float const sum = sums.softmax.l[r], factor = sum > 0.0F ? target.weight / sum : 0.0F;
    bool const adds = target.y != nullptr && target.add;
    bool const any_adds = __any_sync(kAllLanes, adds ? 1 : 0) != 0;
#pragma unroll
    for (int column = 0; column < Tile::kV; column += 32) {
      auto* const mine = reinterpret_cast<uint4*>(target.y + column + threadIdx.x % 4 * 8);
      uint32_t words[4] = {};
      if (any_adds) {
        uint4 const before = adds ? *mine : uint4{};
        words[0] = before.x, words[1] = before.y, words[2] = before.z, words[3] = before.w;
        transposeQuad(words);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float const* const o = sums.o + (column / 8 + i) * 4 + 2 * r;
        Pair const before = *reinterpret_cast<Pair const*>(&words[i]);
        float const low = o[0] * factor + toFloat(before.value[0]);
        float const high = o[1] * factor + toFloat(before.value[1]);
        words[i] = packPair<T>(low, high);
      }
      transposeQuad(words);
      if (target.y != nullptr) *mine = uint4{words[0], words[1], words[2], words[3]};
    }
  }
}

}  // namespace r1trt::kernels::hla::prefill
