// mbarriers, by the PTX manual (9.7.13.15), and named barriers.
//
// A phase ends when no arrival is pending and as many bytes have landed as were expected. Waiting is a state
// of a thread, not a loop, so that a phase that never ends is reported.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simt_fiber.h"

namespace simt {

struct Thread;

constexpr int kMaxPhaseBarriers = 64, kNamedBarriers = 16;

struct PhaseBarrier {
  uint64_t* word;  // in shared memory; nobody but the barrier may write there
  int arrivals, pending;
  int64_t bytes;  // expected less those that landed
  uint32_t phase;
  char tag[2][8];     // what arrivals release, by parity
  char issue_tag[8];  // what the threads release that begin copies
};

struct PhaseBarriers {
  int count;
  PhaseBarrier barrier[kMaxPhaseBarriers];
};

struct NamedBarrier {
  int arrived, count, parity;
  char tag[2][8];
};

void initPhase(uint64_t* word, uint32_t arrivals);
// Expects so many bytes more in this phase, and then arrives.
void arriveAtPhase(uint64_t* word, uint32_t bytes);
// Until the phase of this parity has ended.
void waitForPhase(uint64_t* word, uint32_t parity);
PhaseBarrier& phaseOf(uint64_t* word);
// By the bulk copies; `phase` is the one that the bytes count for.
void completeBytes(PhaseBarrier& barrier, int64_t bytes);
// What every phase that has begun still waits for.
void reportPhases(char* text, size_t size);

void namedBarrier(int index, int count, bool waits);

}  // namespace simt
