// Division by a number that the host knows, by a multiplication (Granlund and Montgomery 1994, figure 4.1).
#pragma once

#include "types.h"

namespace r1trt::kernels {

// Of numbers from 0 to 2^31 - 1, by 1 to 2^31 - 1.
struct Divisor {
  int32_t divisor = 1;
  uint32_t multiplier = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(int32_t by) : divisor(by) {
    while ((uint64_t{1} << shift) < static_cast<uint64_t>(by)) ++shift;
    uint64_t const rest = (uint64_t{1} << shift) - static_cast<uint64_t>(by);
    multiplier = static_cast<uint32_t>((rest << 32) / static_cast<uint64_t>(by) + 1);
  }

  __host__ __device__ int divide(int number) const {
    auto const n = static_cast<uint32_t>(number);
    uint32_t const high = static_cast<uint32_t>(static_cast<uint64_t>(n) * multiplier >> 32);
    return static_cast<int>((high + n) >> shift);
  }
  __host__ __device__ int remainder(int number) const { return number - divide(number) * divisor; }
  __host__ __device__ int divideUp(int number) const { return divide(number) + (remainder(number) > 0); }
};

}  // namespace r1trt::kernels
