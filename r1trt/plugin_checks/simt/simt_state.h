// What the scheduler knows of the launch that runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "simt_block.h"
#include "simt_bulk_copy.h"
#include "simt_phase.h"
#include "simt_warpgroup.h"

namespace simt {

constexpr size_t kArenaSize = 320 << 10;
constexpr size_t kRedzone = 128;
constexpr size_t kMaxSharedAlignment = 1024;
constexpr int kMaxWarps = kMaxThreads / kWarpSize;
constexpr int kMaxSharedVariables = 64;
constexpr unsigned kReadyRing = 2 * kMaxThreads;

// NOTES: under ThreadSanitizer successive blocks run on different fibers, with nothing that orders them, so
// that it sees races between blocks as well. It bears about 8000 fibers.
#ifdef SIMT_TSAN
constexpr int kTeams = 4;
constexpr int kMaxFibers = 4096;
#else
constexpr int kTeams = 1;
constexpr int kMaxFibers = kMaxThreads;
#endif

// The threads of a block, and its shared memory; used for one block after another.
struct Team {
  std::vector<Thread*> threads;
  char* arena = nullptr;
  Agent agent;         // bulk copies write as it
  char end_tag[2][8];  // what a block's threads release at their end, by turns
  int turn = 0;
};

struct Barrier {
  int arrived, line, any, all, count, parity;
  BarrierResult result[2];
  char tag[2][8];
};

struct Warp {
  unsigned exited;
  int parity;
  char tag[2][8];
};

struct SharedVariable {
  void const* key;
  void* address;
};

struct State {
  dim3 grid, block;
  uint3 block_index;
  char const* kernel;
  std::function<void()> const* body;
  int threads, exited;
  unsigned ready_begin, ready_end;  // of a ring; they count modulo 2^32
  int ready[kReadyRing];
  Team teams[kTeams];
  Team* team;
  Thread* current;
  Warp warps[kMaxWarps];
  Barrier barrier;
  SharedVariable shared[kMaxSharedVariables];
  int shared_count;
  size_t shared_bytes, arena_used, dynamic_bytes;
  char* dynamic;
  Fiber launcher;
  uint64_t random;
  bool failed;
  char start_tag[8];
  char error[2048];
  PhaseBarriers phases;
  NamedBarrier named[kNamedBarriers];
  BulkCopies bulk;
  WarpProducts products[kMaxWarps];
  Agent reader;       // to ThreadSanitizer products read shared memory as it, too
  char proxy_tag[8];  // what it sees of others' writes
};

State& state();
// To be picked again, and to let others run until then.
void makeReady(Thread& thread, bool first = false);
void yieldFrom(Thread& thread);
// In a random order of threads, sometimes lets another one run.
void perhapsYield();

}  // namespace simt
