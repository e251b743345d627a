// Scores, online softmax and the sum of values of a warpgroup's 64 rows and 128 keys, by wgmma.
//
// Legend, as in FlashAttention: S scores, P weights, O output, m a row's largest score, l the sum of its
// weights. A lane has the rows lane / 4 and lane / 4 + 8 of its warp's 16; of every 8 columns two.
#pragma once

#include "../common/numeric.cuh"
#include "hopper_prefill_tile.cuh"

namespace r1trt::kernels::hla::prefill {

template <class T>
struct Product;
template <>
struct Product<__nv_bfloat16> {
  static __device__ void scores(float (&s)[64], uint64_t q, uint64_t k, int more) {
    multiplyBf16(s, q, k, more);
  }
  template <int kCount>
  static __device__ void values(float (&o)[kCount], uint32_t const (&p)[4], uint64_t v) {
    multiplyValuesBf16(o, p, v, 1);
  }
};
template <>
struct Product<__half> {
  static __device__ void scores(float (&s)[64], uint64_t q, uint64_t k, int more) {
    multiplyF16(s, q, k, more);
  }
  template <int kCount>
  static __device__ void values(float (&o)[kCount], uint32_t const (&p)[4], uint64_t v) {
    multiplyValuesF16(o, p, v, 1);
  }
};

constexpr int kScores = kKeys / 2;  // of a lane, and half as many registers of weights
constexpr int kWords = kKeys / 32;  // a bit a key

// S = q k^T of a warpgroup's 64 rows.
template <class Tile>
__device__ __forceinline__ void beginScores(Shared<Tile> const& shared, int queries, int stage, int warpgroup,
                                            float (&s)[kScores]) {
  fenceProducts();
#pragma unroll
  for (int step = 0; step < Tile::kQk / 16; ++step) {
    int const group = step / 4, offset = step % 4 * 32;
    char const* q = shared.q[queries][group] + warpgroup * 64 * kSwizzleBytes;
    Product<typename Tile::T>::scores(s, tileDescriptor(q, offset),
                                      tileDescriptor(shared.k[stage][group], offset), step > 0);
  }
  commitProducts();
}

// O += P v.
template <class Tile>
__device__ __forceinline__ void beginValues(Shared<Tile> const& shared, int stage,
                                            uint32_t const (&p)[kScores / 8][4], float (&o)[Tile::kV / 2]) {
  fenceProducts();
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    Product<typename Tile::T>::values(o, p[step], rowsDescriptor(shared.v[stage][0], step * 16, kGroupBytes));
  }
  commitProducts();
}

// A row's largest score, times log2(e) and the scale, which is positive, and its sum; of two rows.
struct Softmax {
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {0.0F, 0.0F};

  // S becomes P; returns by how much what was summed before is to be multiplied.
  __device__ __forceinline__ void update(float (&s)[kScores], float scale, float (&decay)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float largest = s[2 * r];
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i)
        largest = fmaxf(largest, fmaxf(s[4 * i + 2 * r], s[4 * i + 2 * r + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
      largest = fmaxf(m[r], largest * scale);
      float const offset = largest == -INFINITY ? 0.0F : largest;
      decay[r] = fastExp2(m[r] - offset);
      m[r] = largest;
      float sum[2] = {0.0F, 0.0F};
#pragma unroll
      for (int i = 0; i < kScores / 4; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& score = s[4 * i + 2 * r + j];
          score = fastExp2(score * scale - offset);
          sum[j] += score;
        }
      }
      l[r] = l[r] * decay[r] + (sum[0] + sum[1]);
    }
  }

  // The lanes that share a row put their sums together.
  __device__ __forceinline__ void end() {
#pragma unroll
    for (float& sum : l) {
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
    }
  }
};

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

template <class T>
__device__ __forceinline__ void packWeights(float const (&s)[kScores], uint32_t (&p)[kScores / 8][4]) {
#pragma unroll
  for (int step = 0; step < kScores / 8; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) p[step][i] = packPair<T>(s[8 * step + 2 * i], s[8 * step + 2 * i + 1]);
  }
}

// Products read weights while they run: this keeps their registers until behind the wait.
__device__ __forceinline__ void holdWeights(uint32_t (&p)[kScores / 8][4]) {
#pragma unroll
  for (int i = 0; i < kScores / 2; ++i) asm volatile("" : "+r"(p[i / 4][i % 4])::"memory");
}

template <class Tile>
__device__ __forceinline__ void rescale(float (&o)[Tile::kV / 2], float const (&decay)[2]) {
#pragma unroll
  for (int i = 0; i < Tile::kV / 2; ++i) o[i] *= decay[i / 2 % 2];
}

}  // namespace r1trt::kernels::hla::prefill
