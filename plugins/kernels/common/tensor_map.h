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

// Matrices of 16-bit elements, one behind the other: columns, rows, matrices. A row may lie anywhere in its
// matrix: strides are in bytes, multiples of 16, from a row and from a matrix to the next.
struct StackMap {
  void const* data;
  CUtensorMapDataType type;
  int64_t sizes[3], strides[2];
  int box[3];
};

inline cudaError_t encodeTiled(CUtensorMap& map, CUtensorMapDataType type, int rank, void const* data,
                               cuuint64_t const* sizes, cuuint64_t const* strides, cuuint32_t const* box) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static Encode const encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    return found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function) : nullptr;
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  cuuint32_t const steps[] = {1, 1, 1};
  CUresult const result =
      encode(&map, type, static_cast<cuuint32_t>(rank), const_cast<void*>(data), sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

inline cudaError_t encodeTensorMap(MatrixMap const& matrix, CUtensorMap& map) {
  cuuint64_t const sizes[] = {static_cast<cuuint64_t>(matrix.columns), static_cast<cuuint64_t>(matrix.rows)};
  cuuint64_t const strides[] = {sizes[0] * static_cast<cuuint64_t>(matrix.element_size)};
  cuuint32_t const box[] = {static_cast<cuuint32_t>(matrix.box_columns),
                            static_cast<cuuint32_t>(matrix.box_rows)};
  return encodeTiled(map, matrix.type, 2, matrix.data, sizes, strides, box);
}

inline cudaError_t encodeStackMap(StackMap const& stack, CUtensorMap& map) {
  cuuint64_t sizes[3], strides[2];
  cuuint32_t box[3];
  for (int i = 0; i < 3; ++i) {
    sizes[i] = static_cast<cuuint64_t>(stack.sizes[i]);
    box[i] = static_cast<cuuint32_t>(stack.box[i]);
    if (i < 2) strides[i] = static_cast<cuuint64_t>(stack.strides[i]);
  }
  return encodeTiled(map, stack.type, 3, stack.data, sizes, strides, box);
}

}  // namespace r1trt::kernels::hopper
