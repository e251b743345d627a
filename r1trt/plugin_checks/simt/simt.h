// Runs CUDA C++ kernel sources on the CPU: g++ -x c++ -DR1TRT_SIMT_HOST, and simt_*.cpp linked to them.
//
// Limits: no clusters or spinning on memory; no weak memory beyond what ThreadSanitizer's happens-before
// sees (a missing fence.proxy.async only in front of products); exp2 and its like are those of libm.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "simt_block.h"
#include "simt_collectives.h"
#include "simt_tensor_core.h"

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __shared__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// Plain shared variables would be poisoned and reset by nobody: kernels use the macros of platform.cuh.
#define __shared__ static_assert(false, "use R1TRT_SHARED")

#define threadIdx (::simt::self().thread_idx)
#define blockIdx (::simt::blockIndex())
#define blockDim (::simt::blockShape())
#define gridDim (::simt::gridShape())
#define __syncthreads() ((void)::simt::blockBarrier(__LINE__))
#define __syncthreads_or(predicate) (::simt::blockBarrier(__LINE__, (predicate) != 0).any)
#define __syncthreads_and(predicate) (::simt::blockBarrier(__LINE__, (predicate) != 0).all)
#define __syncthreads_count(predicate) (::simt::blockBarrier(__LINE__, (predicate) != 0).count)

// Real atomics, so that ThreadSanitizer takes them for such; relaxed, as CUDA's are.
template <class T>
T atomicAdd(T* address, T value) {
  if constexpr (std::is_integral<T>::value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
  } else {
    T old, sum;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    do {
      sum = old + value;
    } while (!__atomic_compare_exchange(address, &old, &sum, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
  }
}
template <class T>
T atomicOr(T* address, T value) {
  return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}

template <class T>
T __ldg(T const* address) {
  return *address;
}
inline int __popc(unsigned value) {
  return __builtin_popcount(value);
}
inline int __ffs(int value) {
  return __builtin_ffs(value);
}
inline float __expf(float value) {
  return std::exp(value);
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float rsqrtf(float value) {
  return 1.0F / std::sqrt(value);
}
[[noreturn]] inline void __trap() {
  simt::fail("__trap");
}
using std::max;
using std::min;
