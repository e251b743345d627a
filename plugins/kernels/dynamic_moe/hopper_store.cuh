// From the registers of a warpgroup's sums to rows of 16 bytes a lane.
#pragma once

#include <type_traits>

#include "../common/platform.cuh"

namespace r1trt::kernels::moe {

template <class Element>
__device__ __forceinline__ uint32_t packed(float low, float high) {
  if constexpr (sizeof(Element) == 2 && std::is_same_v<Element, __half>) {
    __half2 const pair = __floats2half2_rn(low, high);
    return reinterpret_cast<uint32_t const&>(pair);
  } else {
    __nv_bfloat162 const pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<uint32_t const&>(pair);
  }
}

// A quad of lanes holds 8 columns of a row, two each. They swap those of four such groups, so that each lane
// has 16 bytes in a row: `pairs[i]` of lane q goes to lane i.
__device__ __forceinline__ uint4 transposeQuad(uint32_t (&pairs)[4]) {
  int const lane = threadIdx.x & 3;
  uint32_t result[4];
#pragma unroll
  for (int turn = 0; turn < 4; ++turn) {
    int const partner = lane ^ turn;
    uint32_t const sent = partner == 0   ? pairs[0]
                          : partner == 1 ? pairs[1]
                          : partner == 2 ? pairs[2]
                                         : pairs[3];
    uint32_t const got = __shfl_xor_sync(kAllLanes, sent, turn);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i == partner) result[i] = got;
    }
  }
  return {result[0], result[1], result[2], result[3]};
}

}  // namespace r1trt::kernels::moe
