// Rows of a product's operands, from global to shared memory.
#pragma once

#include "../common/mma.cuh"

namespace r1trt::kernels::moe {

// Byte offset in a tile of 16-byte chunks. NOTES: 8 rows' chunks of one column fall into 8 different groups
// of banks.
template <int kRowBytes>
__device__ __forceinline__ int swizzled(int row, int chunk) {
  return row * kRowBytes + (chunk ^ (row & 7)) * 16;
}

// A matrix's rows of `pitch` elements, the first of them at `data`; those from `rows` on are 0, and so is
// what is behind a row's end.
template <class Element>
struct MatrixRows {
  Element const* data;
  int64_t pitch;
  int rows;
};

// Copies kTileRows rows of `kDepth` elements from column k0 on.
//
// Eight threads copy 128 bytes of a row, and the rows of a thread are a multiple of 8 apart: its place in
// shared memory moves by constants, and its row by the same step in global memory. Of what is outside nothing
// is read, so that its address may be any.
template <class Element, int kTileRows, int kDepth, int kThreads>
__device__ __forceinline__ void loadRows(char* target, MatrixRows<Element> const& from, int k0) {
  constexpr int kSize = static_cast<int>(sizeof(Element)), kLanes = 8, kPerChunk = 16 / kSize,
                kPerGroup = kLanes * kPerChunk;
  constexpr int kRowBytes = kDepth * kSize, kRowsAtOnce = kThreads / kLanes;
  static_assert(kDepth % kPerGroup == 0 && kRowsAtOnce % 8 == 0, "whole groups; the swizzle is a thread's");
  int const thread = threadReadAnew(), row0 = thread / kLanes, lane = thread % kLanes;
  char* const mine = target + swizzled<kRowBytes>(row0, lane);
  int const column0 = k0 + lane * kPerChunk;
  Element const* source = from.data + row0 * from.pitch + column0;
#pragma unroll
  for (int begin = 0; begin < kTileRows; begin += kRowsAtOnce, source += kRowsAtOnce * from.pitch) {
    int const row = begin + row0;
    if (begin + kRowsAtOnce > kTileRows && row >= kTileRows) continue;
#pragma unroll
    for (int group = 0; group < kDepth; group += kPerGroup) {
      bool const valid = row < from.rows && column0 + group < from.pitch;
      copyAsync16(mine + begin * kRowBytes + group * kSize, source + group, valid);
    }
  }
}

}  // namespace r1trt::kernels::moe
