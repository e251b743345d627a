// What the router's two products have in common.
#pragma once

#include "../common/numeric.cuh"
#include "stages.cuh"

namespace r1trt::kernels::moe {

constexpr int kWeightParts = 3;

template <class T>
constexpr int kInputParts = 1;
template <>
inline constexpr int kInputParts<__half> = 2;

struct LogitsProblem {
  void const* x;
  float const* w;
  float* logits;
  int64_t tokens;
  int32_t hidden, experts;
};

// Splits two neighbours into parts of BF16, the first the largest.
template <int kParts>
__device__ __forceinline__ void splitPair(float low, float high, uint32_t (&parts)[kParts]) {
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    parts[i] = packPair<__nv_bfloat16>(low, high);
    low -= __uint_as_float(parts[i] << 16);
    high -= __uint_as_float(parts[i] & 0xFFFF0000U);
  }
}

}  // namespace r1trt::kernels::moe
