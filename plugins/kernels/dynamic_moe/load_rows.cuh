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

// Copies rows of `kDepth` elements from column k0 on; what is outside becomes 0. address(row, valid) clears
// `valid` where the row is outside, and then returns any row that is not.
//
// Eight threads copy 128 bytes of a row, and the rows of a thread are a multiple of 8 apart: its place in
// shared memory moves by constants.
template <class Element, int kTileRows, int kDepth, int kThreads, class RowAddress>
__device__ __forceinline__ void loadRows(char* target, int k0, int k, RowAddress const& address) {
  constexpr int kLanes = 8, kPerChunk = 16 / static_cast<int>(sizeof(Element)),
                kPerGroup = kLanes * kPerChunk;
  constexpr int kRowBytes = kDepth * static_cast<int>(sizeof(Element)), kRowsAtOnce = kThreads / kLanes;
  static_assert(kDepth % kPerGroup == 0 && kRowsAtOnce % 8 == 0, "whole groups; the swizzle is a thread's");
  constexpr int kUnrolled = 4;  // more rows' addresses would not fit the registers
  int const thread = threadReadAnew(), row0 = thread / kLanes, lane = thread % kLanes;
  char* const mine = target + swizzled<kRowBytes>(row0, lane);
#pragma unroll kUnrolled
  for (int begin = 0; begin < kTileRows; begin += kRowsAtOnce) {
    int const row = begin + row0;
    if (begin + kRowsAtOnce > kTileRows && row >= kTileRows) continue;
    bool row_valid = true;
    Element const* const source = address(row, row_valid);
#pragma unroll
    for (int group = 0; group < kDepth; group += kPerGroup) {
      int const column = k0 + group + lane * kPerChunk;
      bool const valid = row_valid && column < k;
      copyAsync16(mine + begin * kRowBytes + group * static_cast<int>(sizeof(Element)),
                  source + (column < k ? column : 0), valid);
    }
  }
}

}  // namespace r1trt::kernels::moe
