// Shared memory and launches: the one place that knows whether a kernel is compiled for a GPU or for the
// tests' host layer (R1TRT_SIMT_HOST, not __CUDA_ARCH__, which nvcc's own host pass lacks too).
#pragma once

#include "types.h"

#ifdef R1TRT_SIMT_HOST
#include "simt.h"

// One declaration a line.
#define R1TRT_SHARED(Type, name)    \
  static char const name##_key = 0; \
  Type& name = *static_cast<Type*>(::simt::sharedVariable(&name##_key, sizeof(Type), alignof(Type)))
#define R1TRT_DYNAMIC_SHARED(name) char* const name = ::simt::dynamicShared()
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#define R1TRT_SHARED(Type, name) __shared__ Type name
#define R1TRT_DYNAMIC_SHARED(name)                              \
  extern __shared__ __align__(128) char r1trt_dynamic_shared[]; \
  char* const name = r1trt_dynamic_shared
#endif

namespace r1trt::kernels {

struct LaunchShape {
  char const* name;
  dim3 grid;
  unsigned threads;
  size_t shared_bytes = 0;
};

#ifdef R1TRT_SIMT_HOST
template <class... Parameters, class... Arguments>
cudaError_t launch(LaunchShape const& shape, cudaStream_t /*stream*/, void (*kernel)(Parameters...),
                   Arguments... arguments) {
  return ::simt::launch(shape.name, shape.grid, dim3(shape.threads), shape.shared_bytes,
                        [&] { kernel(arguments...); });
}

inline cudaError_t clearAsync(void* memory, size_t size, cudaStream_t /*stream*/) {
  std::memset(memory, 0, size);
  return cudaSuccess;
}

struct DeviceLimits {
  int sm = 90, num_sms = 8, shared_limit = ::simt::configuration().shared_limit;
};
inline cudaError_t deviceLimits(DeviceLimits& limits) {
  limits = DeviceLimits{};
  return cudaSuccess;
}
#else
template <class... Parameters, class... Arguments>
cudaError_t launch(LaunchShape const& shape, cudaStream_t stream, void (*kernel)(Parameters...),
                   Arguments... arguments) {
  constexpr size_t kAlwaysAllowed = 48 << 10;
  if (shape.shared_bytes > kAlwaysAllowed) {
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<shape.grid, shape.threads, shape.shared_bytes, stream>>>(arguments...);
  return cudaGetLastError();
}

inline cudaError_t clearAsync(void* memory, size_t size, cudaStream_t stream) {
  return cudaMemsetAsync(memory, 0, size, stream);
}

struct DeviceLimits {
  int sm = 0, num_sms = 0, shared_limit = 0;
};
inline cudaError_t deviceLimits(DeviceLimits& limits) {
  int device = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  auto ask = [&](int& value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, device);
  };
  ask(major, cudaDevAttrComputeCapabilityMajor);
  ask(minor, cudaDevAttrComputeCapabilityMinor);
  ask(limits.num_sms, cudaDevAttrMultiProcessorCount);
  ask(limits.shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  limits.sm = 10 * major + minor;
  return error;
}
#endif

inline bool aligned16(void const* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

template <class T>
__host__ __device__ constexpr T ceilDiv(T value, T divisor) {
  return (value + divisor - 1) / divisor;
}

// threadIdx.x, read anew: what follows from it is not kept in registers over a main loop that needs them.
__device__ __forceinline__ int threadReadAnew() {
#ifdef R1TRT_SIMT_HOST
  return static_cast<int>(threadIdx.x);
#else
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#endif
}

constexpr unsigned kAllLanes = 0xFFFFFFFFU;
constexpr int kWarpSize = 32;

// Runs the body in every thread of a grid's last block to come here, with all other blocks' writes visible.
// `ticket` is 0 before the launch and after it.
__device__ __forceinline__ bool isLastBlock(uint32_t* ticket, uint32_t blocks) {
  __syncthreads();
  bool last = false;
  if (threadIdx.x == 0) {
#ifdef R1TRT_SIMT_HOST
    last = __atomic_fetch_add(ticket, 1U, __ATOMIC_ACQ_REL) == blocks - 1;
#else
    __threadfence();
    last = atomicAdd(ticket, 1U) == blocks - 1;
    __threadfence();
#endif
    if (last) *ticket = 0;
  }
  return __syncthreads_or(last ? 1 : 0) != 0;
}

}  // namespace r1trt::kernels
