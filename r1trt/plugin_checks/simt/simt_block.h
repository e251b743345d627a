// The scheduler: a block's threads, its barriers, warp collectives, shared memory and asynchronous copies.
//
// Blocks run one after another on one OS thread; a launch is deterministic for a given configuration. What
// real hardware may do in any order is made explicit: the order of threads and blocks follows a seed, and an
// asynchronous copy lands at once, at its wait (a bulk copy: when no thread can go on without it), or at
// random.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>

#include "simt_fiber.h"

namespace simt {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;
constexpr unsigned kFullMask = 0xFFFFFFFFU;

// When a cp.async or a bulk copy writes its bytes. All are legal: late exposes a missing wait, eager a
// missing barrier before the buffer is refilled, or one that is given back too early.
enum class CopyLanding { kLate, kEager, kRandom };

struct Configuration {
  long seed = 0;  // 0: threads in order; < 0: in reverse; > 0: at random
  CopyLanding copy_landing = CopyLanding::kLate;
  int shared_limit = 227 * 1024;  // most shared memory of a block, in bytes
};

// From SIMT_SEED and SIMT_COPY (late, eager, random), read once; tests may then change it.
Configuration& configuration();

enum class Op : uint8_t {
  kNone,
  kBarrier,
  kSyncWarp,
  kShuffle,
  kVote,
  kMatch,
  kReduce,
  kLdmatrix,
  kMma,
  kProduct,
  kPhase,
  kNamedBarrier,
  kExited
};

struct Thread;
// Runs once for a whole collective, in the last lane to arrive; `lanes` is indexed by lane.
using Leader = void (*)(Thread* const* lanes, unsigned mask);

struct Copy {
  void* target;
  void const* source;
  int bytes;
  int valid;  // the rest is filled with zeros
  int group;
};

constexpr int kMaxPendingCopies = 512;

struct Thread {
  Fiber* fiber = nullptr;
  uint3 thread_idx{};
  int id = 0, lane = 0, warp = 0;
  Op op = Op::kNone;
  int line = 0;             // of the barrier waited in
  unsigned mask = 0;        // of the collective
  void* payload = nullptr;  // its argument, on this thread's stack
  bool waited = false;      // for the kernel before, where that may still run
  int copies = 0, copy_group = 0;
  Copy pending[kMaxPendingCopies];
};

Thread& self();
dim3 const& blockShape();
dim3 const& gridShape();
uint3 const& blockIndex();
// The block's; whoever asks first places it, at a multiple of `alignment` and of no power of two above.
char* dynamicShared(size_t alignment = 128);

// A fatal misuse: ends the launch, which returns cudaErrorLaunchFailure.
[[noreturn]] void fail(char const* message);
// What the last failed launch said; empty after a good one.
char const* lastError();

struct BarrierResult {
  int any, all, count;
};
BarrierResult blockBarrier(int line, bool predicate = false);
void syncWarp(unsigned mask);
void collective(Op op, unsigned mask, void* payload, Leader leader);

void* sharedVariable(void const* key, size_t bytes, size_t alignment);

// Of the launch's own random numbers.
unsigned randomBelow(unsigned bound);

void copyAsync(void* target, void const* source, int bytes, int valid);
void copyCommit();
void copyWait(int groups_left);

cudaError_t launch(char const* name, dim3 grid, dim3 block, size_t shared_bytes,
                   std::function<void()> const& body);

}  // namespace simt
