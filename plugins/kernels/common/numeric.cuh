// Conversions between the element types and FP32, in vectors of 16 bytes.
#pragma once

#include "platform.cuh"

namespace r1trt::kernels {

__device__ __forceinline__ float toFloat(float value) {
  return value;
}
__device__ __forceinline__ float toFloat(__half value) {
  return __half2float(value);
}
__device__ __forceinline__ float toFloat(__nv_bfloat16 value) {
  return __bfloat162float(value);
}
__device__ __forceinline__ float toFloat(__nv_fp8_e4m3 value) {
  return static_cast<float>(value);
}

template <class T>
__device__ __forceinline__ T fromFloat(float value);
template <>
__device__ __forceinline__ float fromFloat<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half fromFloat<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 fromFloat<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ __nv_fp8_e4m3 fromFloat<__nv_fp8_e4m3>(float value) {
  return __nv_fp8_e4m3(value);  // saturates at 448
}

constexpr float kLargestE4M3 = 448.0F;

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T value[kCount];
};

// Elements of one 16-byte access.
template <class T>
constexpr int kVectorSize = 16 / static_cast<int>(sizeof(T));

// Two neighbours in one register, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t packPair(float low, float high);
template <>
__device__ __forceinline__ uint32_t packPair<__nv_bfloat16>(float low, float high) {
  __nv_bfloat162_raw raw = __floats2bfloat162_rn(low, high);
  return raw.x | static_cast<uint32_t>(raw.y) << 16;
}
template <>
__device__ __forceinline__ uint32_t packPair<__half>(float low, float high) {
  __half2_raw raw = __floats2half2_rn(low, high);
  return raw.x | static_cast<uint32_t>(raw.y) << 16;
}

// 2^x; results below FP32's smallest normal number may be 0.
__device__ __forceinline__ float fastExp2(float x) {
#ifdef R1TRT_SIMT_HOST
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// e^x, within a few units in the last place for small |x|, and an error of 2^-24 |x| times that of 2^x.
__device__ __forceinline__ float fastExp(float x) {
  return fastExp2(x * 1.4426950408889634F);
}

// Within one unit in the last place; of infinity 0.
__device__ __forceinline__ float fastReciprocal(float x) {
#ifdef R1TRT_SIMT_HOST
  return 1.0F / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

template <class T>
__device__ __forceinline__ T warpSum(T value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// One instruction from sm_80 on.
__device__ __forceinline__ uint32_t warpMaxKey(uint32_t key) {
  return __reduce_max_sync(kAllLanes, key);
}

__device__ __forceinline__ float warpMax(float value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

}  // namespace r1trt::kernels
