// Tensor maps of row-major matrices, for TMA. The driver encodes them; it is asked by name, so that a library
// loads where there is no driver.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace r1trt::kernels::hopper {

struct MatrixMap {
  void const* data;  // 16-byte aligned, as are its rows
  CUtensorMapDataType type;
  int element_size;
  int64_t rows, columns;
  int box_rows, box_columns;  // at most 256; a box's row has 128 bytes
};

inline cudaError_t encodeTensorMap(MatrixMap const& matrix, CUtensorMap& map) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static Encode const encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    return found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function) : nullptr;
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  cuuint64_t const sizes[] = {static_cast<cuuint64_t>(matrix.columns), static_cast<cuuint64_t>(matrix.rows)};
  cuuint64_t const strides[] = {sizes[0] * static_cast<cuuint64_t>(matrix.element_size)};
  cuuint32_t const box[] = {static_cast<cuuint32_t>(matrix.box_columns),
                            static_cast<cuuint32_t>(matrix.box_rows)};
  cuuint32_t const steps[] = {1, 1};
  CUresult const result = encode(&map, matrix.type, 2, const_cast<void*>(matrix.data), sizes, strides, box,
                                 steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace r1trt::kernels::hopper
