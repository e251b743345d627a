// The CUDA runtime functions that the plugins call themselves, on the CPU: a stream is the calling thread.
#include <cuda_runtime_api.h>

#include <cstring>

extern "C" cudaError_t cudaMemcpyAsync(void* target, void const* source, size_t size, cudaMemcpyKind,
                                       cudaStream_t) {
  std::memcpy(target, source, size);
  return cudaSuccess;
}

extern "C" cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

// As many multiprocessors as the host layer has.
extern "C" cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute != cudaDevAttrMultiProcessorCount) return cudaErrorInvalidValue;
  *value = 8;
  return cudaSuccess;
}

extern "C" char const* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    case cudaErrorInvalidDevicePointer:
      return "cudaErrorInvalidDevicePointer";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    default:
      return "cudaError";
  }
}

extern "C" char const* cudaGetErrorString(cudaError_t error) {
  return cudaGetErrorName(error);
}
