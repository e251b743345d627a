// Kernels whose thread blocks stay on sm_90a: as many as multiprocessors, each with one tile after the other.
#pragma once

#include "../common/divisor.h"
#include "stages.cuh"

namespace r1trt::kernels::hla::prefill {

constexpr int kThreads = 384;
constexpr int kMaxRounds = 256;  // tiles of a thread block

struct Schedule {
  int32_t tiles, rounds;
  Divisor blocks;
};

// Where there are more tiles than so many rounds have, blocks as many as fill the GPU several times.
inline Schedule scheduleOf(int64_t count, int num_sms) {
  constexpr int64_t kMostTiles = INT32_MAX / 2;  // no call has more, but somebody may ask for a workspace
  int const tiles = static_cast<int>(count < kMostTiles ? count : kMostTiles);
  int const blocks = num_sms * ceilDiv(tiles, num_sms * kMaxRounds);
  Schedule schedule{tiles, 1, Divisor(blocks < tiles ? blocks : tiles)};
  schedule.rounds = ceilDiv(tiles, schedule.blocks.divisor);
  return schedule;
}

// A block's place in a round: from the first block to the last and back, so that with tiles from long to
// short all blocks have about the same sum.
__device__ __forceinline__ int placeInRound(Schedule const& schedule, int round, int block) {
  return round % 2 == 0 ? block : schedule.blocks.divisor - 1 - block;
}

// Its tile; at or above `tiles` there is none.
__device__ __forceinline__ int tileOf(Schedule const& schedule, int round, int block) {
  return round * schedule.blocks.divisor + placeInRound(schedule, round, block);
}

}  // namespace r1trt::kernels::hla::prefill
