// Shared memory and launches: the one place that knows whether a kernel is compiled for a GPU or for the
// tests' host layer (R1TRT_SIMT_HOST, not __CUDA_ARCH__, which nvcc's own host pass lacks too).
#pragma once

#include "types.h"

namespace r1trt::kernels {

// A block may have 48 KiB of shared memory, static and dynamic together, without being asked for more.
constexpr size_t kAlwaysShared = 48 << 10;
constexpr size_t kMostStaticShared = 40 << 10;

}  // namespace r1trt::kernels

#ifdef R1TRT_SIMT_HOST
#include "simt.h"

// One declaration a line.
#define R1TRT_SHARED(Type, name)                                                                  \
  static_assert(sizeof(Type) <= ::r1trt::kernels::kMostStaticShared, "as launch takes it to be"); \
  static char const name##_key = 0;                                                               \
  Type& name = *static_cast<Type*>(::simt::sharedVariable(&name##_key, sizeof(Type), alignof(Type)))
#define R1TRT_DYNAMIC_SHARED(name) char* const name = ::simt::dynamicShared()
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#define R1TRT_SHARED(Type, name)                                                                  \
  static_assert(sizeof(Type) <= ::r1trt::kernels::kMostStaticShared, "as launch takes it to be"); \
  __shared__ Type name
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
  // From sm_90 on: its blocks may start before the last kernel has ended, and call waitForLastGrid.
  bool overlap = false;
};

constexpr int kFirstOverlapArchitecture = 90;

#ifdef R1TRT_SIMT_HOST
template <class... Parameters, class... Arguments>
cudaError_t launch(LaunchShape const& shape, cudaStream_t /*stream*/, void (*kernel)(Parameters...),
                   Arguments... arguments) {
  return ::simt::launch(shape.name, shape.grid, dim3(shape.threads), shape.shared_bytes, [&] {
    ::simt::self().waited = !shape.overlap;
    kernel(arguments...);
    if (!::simt::self().waited) ::simt::fail("a thread never waited for the kernel before its own");
  });
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
  if (shape.shared_bytes > kAlwaysShared - kMostStaticShared) {
    cudaError_t const error = cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = shape.overlap ? 1 : 0;
  // NOTES: its own error, unlike cudaGetLastError(), which may be one that somebody before us left.
  return cudaLaunchKernelEx(&config, kernel, arguments...);
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

// The next kernel, if it was launched with `overlap`, may start when all blocks of this one have come here.
__device__ __forceinline__ void startNextGrid() {
#if !defined(R1TRT_SIMT_HOST) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// What the last kernel wrote can be read from here on; nothing may be written before.
__device__ __forceinline__ void waitForLastGrid() {
#ifdef R1TRT_SIMT_HOST
  ::simt::self().waited = true;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

constexpr unsigned kAllLanes = 0xFFFFFFFFU;
constexpr int kWarpSize = 32;

}  // namespace r1trt::kernels
