// What the steps between the products share: SwiGLU's activation, and E4M3 with one scale for 128 neighbours,
// 8 consecutive lanes of 16 elements each.
#pragma once

#include "../common/numeric.cuh"
#include "stages.cuh"

namespace r1trt::kernels::moe {

__device__ __forceinline__ float silu(float x) {
  return x / (1.0F + __expf(-x));
}

constexpr int kQuantizedChunk = 16;

using QuantizedChunk = Vector<__nv_fp8_e4m3, kQuantizedChunk>;

template <class T>
__device__ __forceinline__ void loadChunk(T const* source, float (&value)[kQuantizedChunk]) {
  constexpr int kVec = kVectorSize<T>;
#pragma unroll
  for (int i = 0; i < kQuantizedChunk; i += kVec) {
    auto const part = *reinterpret_cast<Vector<T, kVec> const*>(source + i);
#pragma unroll
    for (int j = 0; j < kVec; ++j) value[i + j] = toFloat(part.value[j]);
  }
}

// The scale that maps the largest magnitude of 8 lanes to E4M3's largest number. All 32 lanes must come here.
__device__ __forceinline__ float blockScale(float const (&value)[kQuantizedChunk]) {
  float largest = 0.0F;
#pragma unroll
  for (int i = 0; i < kQuantizedChunk; ++i) largest = fmaxf(largest, fabsf(value[i]));
#pragma unroll
  for (int distance = 1; distance < 8; distance *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, distance));
  }
  return largest > 0.0F ? largest / kLargestE4M3 : 1.0F;
}

__device__ __forceinline__ QuantizedChunk quantizeChunk(float const (&value)[kQuantizedChunk], float scale) {
  QuantizedChunk result;
#pragma unroll
  for (int i = 0; i < kQuantizedChunk; ++i) result.value[i] = fromFloat<__nv_fp8_e4m3>(value[i] / scale);
  return result;
}

// A chunk of a row; with its block's scale, by the first chunk of the block, where scales are kept.
__device__ __forceinline__ void storeChunk(Rows const& target, int64_t row, int columns, int chunk,
                                           QuantizedChunk const& value, float scale) {
  auto* const data = static_cast<__nv_fp8_e4m3*>(target.data) + row * columns + chunk * kQuantizedChunk;
  *reinterpret_cast<QuantizedChunk*>(data) = value;
  constexpr int kChunksOfScale = kScaleBlock / kQuantizedChunk;
  if (target.scale != nullptr && chunk % kChunksOfScale == 0) {
    target.scale[row * scaleBlocks(columns) + chunk / kChunksOfScale] = scale;
  }
}

}  // namespace r1trt::kernels::moe
