// What tiles of attention on sm_90a share: scores, online softmax and the sum of values of a warpgroup's 64
// rows, by wgmma.
//
// Legend, as in FlashAttention: S scores, P weights, O output, m a row's largest score, l the sum of its
// weights. A lane has the rows lane / 4 and lane / 4 + 8 of its warp's 16; of every 8 columns two. A tile in
// shared memory is groups of 64 columns, one behind the other.
#pragma once

#include "../common/hopper.cuh"
#include "../common/numeric.cuh"

namespace r1trt::kernels::hla {

using namespace hopper;

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

// S = q k^T of a warpgroup's 64 rows and 128 keys.
template <class T, int kGroups, int kGroupBytes>
__device__ __forceinline__ void beginScores(char const (&q)[kGroups][kGroupBytes],
                                            char const (&k)[kGroups][kGroupBytes], int warpgroup,
                                            float (&s)[64]) {
  fenceProducts();
#pragma unroll
  for (int step = 0; step < kGroups * 4; ++step) {
    int const group = step / 4, offset = step % 4 * 32;
    char const* rows = q[group] + warpgroup * 64 * kSwizzleBytes;
    Product<T>::scores(s, tileDescriptor(rows, offset), tileDescriptor(k[group], offset), step > 0);
  }
  commitProducts();
}

// O += P v.
template <class T, int kGroups, int kGroupBytes, int kSteps, int kOutputs>
__device__ __forceinline__ void beginValues(char const (&v)[kGroups][kGroupBytes],
                                            uint32_t const (&p)[kSteps][4], float (&o)[kOutputs]) {
  fenceProducts();
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    Product<T>::values(o, p[step], rowsDescriptor(v[0], step * 16, kGroupBytes));
  }
  commitProducts();
}

// A row's largest score, times log2(e) and the scale, which is positive, and its sum; of two rows.
struct Softmax {
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {0.0F, 0.0F};

  // S becomes P; returns by how much what was summed before is to be multiplied.
  template <int kScores>
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

template <class T, int kSteps>
__device__ __forceinline__ void packWeights(float const (&s)[8 * kSteps], uint32_t (&p)[kSteps][4]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) p[step][i] = packPair<T>(s[8 * step + 2 * i], s[8 * step + 2 * i + 1]);
  }
}

// Products read weights while they run: this keeps their registers until behind the wait.
template <int kSteps>
__device__ __forceinline__ void holdWeights(uint32_t (&p)[kSteps][4]) {
#pragma unroll
  for (int i = 0; i < kSteps * 4; ++i) asm volatile("" : "+r"(p[i / 4][i % 4])::"memory");
}

template <int kOutputs>
__device__ __forceinline__ void rescale(float (&o)[kOutputs], float const (&decay)[2]) {
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) o[i] *= decay[i / 2 % 2];
}

}  // namespace r1trt::kernels::hla
