#include "simt_phase.h"

#include <algorithm>
#include <cstdio>

#include "simt_state.h"

namespace simt {
namespace {

constexpr uint64_t kMark = 0x5AFEBA221E500000ULL;  // what an initialized barrier's word holds, and its index
constexpr uint32_t kMostArrivals = (1U << 20) - 1;
constexpr int64_t kMostBytes = (1 << 20) - 1;

// Where copies land at once, who waited goes on at once, too: a stage that is given back is refilled first.
SIMT_UNSANITIZED bool hastens() {
  return configuration().copy_landing == CopyLanding::kEager;
}

SIMT_UNSANITIZED void wake(PhaseBarrier const& barrier) {
  State& g = state();
  for (int i = 0; i < g.threads; ++i) {
    Thread& thread = *g.team->threads[static_cast<size_t>(i)];
    if (thread.op == Op::kPhase && thread.payload == &barrier) makeReady(thread, hastens());
  }
}

SIMT_UNSANITIZED void endPhaseIfComplete(PhaseBarrier& barrier) {
  if (barrier.pending != 0) return;
  if (barrier.bytes < 0) fail("mbarrier: more bytes landed in a phase than it expected");
  if (barrier.bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.arrivals;
  wake(barrier);
}

}  // namespace

SIMT_UNSANITIZED void initPhase(uint64_t* word, uint32_t arrivals) {
  PhaseBarriers& all = state().phases;
  if (reinterpret_cast<uintptr_t>(word) % sizeof *word != 0) fail("mbarrier.init: not 8-byte aligned");
  if (arrivals == 0 || arrivals > kMostArrivals) fail("mbarrier.init: arrivals are 1 to 2^20 - 1");
  if (all.count == kMaxPhaseBarriers) fail("mbarrier.init: too many barriers for the host layer");
  PhaseBarrier& barrier = all.barrier[all.count];
  barrier.word = word;
  barrier.arrivals = barrier.pending = static_cast<int>(arrivals);
  barrier.bytes = 0;
  barrier.phase = 0;
  *word = kMark + static_cast<uint64_t>(all.count++);
}

SIMT_UNSANITIZED PhaseBarrier& phaseOf(uint64_t* word) {
  PhaseBarriers& all = state().phases;
  for (int i = all.count - 1; i >= 0; --i) {
    if (all.barrier[i].word != word) continue;
    if (*word != kMark + static_cast<uint64_t>(i)) fail("mbarrier: somebody wrote over it");
    return all.barrier[i];
  }
  fail("mbarrier: used before mbarrier.init");
}

SIMT_UNSANITIZED void arriveAtPhase(uint64_t* word, uint32_t bytes) {
  PhaseBarrier& barrier = phaseOf(word);
  barrier.bytes += bytes;
  if (barrier.bytes > kMostBytes) fail("mbarrier: more than 2^20 - 1 bytes expected");
  if (barrier.pending == 0) fail("mbarrier: more arrivals in a phase than it was initialized for");
  release(barrier.tag[barrier.phase % 2]);
  --barrier.pending;
  uint32_t const phase = barrier.phase;
  endPhaseIfComplete(barrier);
  if (hastens() && barrier.phase != phase) {
    makeReady(self());
    yieldFrom(self());
  }
  perhapsYield();
}

SIMT_UNSANITIZED void waitForPhase(uint64_t* word, uint32_t parity) {
  if (parity > 1) fail("mbarrier: a parity is 0 or 1");
  PhaseBarrier& barrier = phaseOf(word);
  Thread& thread = self();
  perhapsYield();
  // NOTES: looks again behind its turn, as a loop around try_wait does: a phase too late is one too many.
  while (barrier.phase % 2 == parity) {
    thread.op = Op::kPhase;
    thread.payload = &barrier;
    yieldFrom(thread);
  }
  acquire(barrier.tag[parity]);
}

SIMT_UNSANITIZED void completeBytes(PhaseBarrier& barrier, int64_t bytes) {
  barrier.bytes -= bytes;
  endPhaseIfComplete(barrier);
}

void reportPhases(char* text, size_t size) {
  PhaseBarriers const& all = state().phases;
  size_t used = 0;
  for (int i = 0; i < all.count; ++i) {
    PhaseBarrier const& barrier = all.barrier[i];
    if (barrier.pending == barrier.arrivals && barrier.bytes == 0) continue;
    int const n = snprintf(text + used, size - used, "; mbarrier %d (phase %u) lacks %d arrivals, %lld bytes",
                           i, barrier.phase, barrier.pending, static_cast<long long>(barrier.bytes));
    used = std::min(size - 1, used + static_cast<size_t>(std::max(n, 0)));
  }
}

SIMT_UNSANITIZED void namedBarrier(int index, int count, bool waits) {
  if (index < 1 || index >= kNamedBarriers) fail("bar: a named barrier is 1 to 15");
  if (count <= 0 || count % kWarpSize != 0) fail("bar: its threads are whole warps");
  State& g = state();
  NamedBarrier& barrier = g.named[index];
  if (barrier.arrived == 0) barrier.count = count;
  if (barrier.count != count) fail("bar: threads name one barrier with different counts");
  int const parity = barrier.parity;
  release(barrier.tag[parity]);
  Thread& thread = self();
  if (waits) {
    thread.op = Op::kNamedBarrier;
    thread.payload = &barrier;
  }
  if (++barrier.arrived == barrier.count) {
    barrier.arrived = 0;
    barrier.parity = 1 - parity;
    for (int i = 0; i < g.threads; ++i) {
      Thread& other = *g.team->threads[static_cast<size_t>(i)];
      if (other.op == Op::kNamedBarrier && other.payload == &barrier) makeReady(other);
    }
  }
  if (!waits) return;
  yieldFrom(thread);
  acquire(barrier.tag[parity]);
}

}  // namespace simt
