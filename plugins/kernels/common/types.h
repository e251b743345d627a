// What every launch header shares. Plain C++17: no kernel code, no framework.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace r1trt::kernels {

enum class DataType : int32_t { kFloat32, kFloat16, kBFloat16, kFloat8E4M3 };

constexpr size_t sizeOf(DataType type) {
  return type == DataType::kFloat32 ? 4 : type == DataType::kFloat8E4M3 ? 1 : 2;
}

// Pointers of tensors and workspaces are 16-byte aligned; a workspace piece starts at a multiple of this.
constexpr size_t kWorkspaceAlignment = 256;

constexpr size_t alignUp(size_t size, size_t alignment = kWorkspaceAlignment) {
  return (size + alignment - 1) / alignment * alignment;
}

// Errors that a launch function returns, before anything is enqueued:
//   cudaErrorInvalidValue       sizes, pointers or attributes contradict each other or the documented limits
//   cudaErrorNotSupported       the data types or head sizes have no kernel on this architecture
//   cudaErrorInvalidDevicePointer  a required pointer is null, or not 16-byte aligned
//   cudaErrorMemoryAllocation   the workspace is smaller than the size function says

}  // namespace r1trt::kernels
