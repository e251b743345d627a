#include "simt_block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>

#include "simt_state.h"

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace simt {
namespace {

State g;
std::mutex launch_mutex;

char const* nameOf(Op op) {
  static char const* const names[] = {"running",
                                      "__syncthreads",
                                      "__syncwarp",
                                      "__shfl_sync",
                                      "a vote",
                                      "__match_sync",
                                      "__reduce_sync",
                                      "ldmatrix",
                                      "mma.sync",
                                      "wgmma",
                                      "a wait for an mbarrier",
                                      "a named barrier",
                                      "exited"};
  return names[static_cast<int>(op)];
}

void report(char const* message, Thread const* culprit) {
  size_t used = 0;
  auto say = [&](char const* format, auto... values) {
    int n = snprintf(g.error + used, sizeof g.error - used, format, values...);
    used = std::min(sizeof g.error - 1, used + static_cast<size_t>(std::max(n, 0)));
  };
  say("%s; kernel %s, block (%u, %u, %u)", message, g.kernel, g.block_index.x, g.block_index.y,
      g.block_index.z);
  if (culprit != nullptr) say(", thread %d (warp %d lane %d)", culprit->id, culprit->warp, culprit->lane);
  for (int op = static_cast<int>(Op::kBarrier); op <= static_cast<int>(Op::kExited); ++op) {
    int count = 0, first = -1, last = -1;
    for (int i = 0; i < g.threads; ++i) {
      if (g.team->threads[i]->op != static_cast<Op>(op)) continue;
      first = first < 0 ? i : first;
      last = i;
      ++count;
    }
    if (count != 0) say("; %d threads [%d..%d] in %s", count, first, last, nameOf(static_cast<Op>(op)));
  }
  reportPhases(g.error + used, sizeof g.error - used);
}

// Takes the next thread that can run; null when none can.
SIMT_UNSANITIZED Thread* pickNext() {
  landBulkCopies();
  if (g.ready_begin == g.ready_end) return nullptr;
  long seed = configuration().seed;
  unsigned pick = g.ready_begin;
  if (seed < 0) pick = g.ready_end - 1;
  if (seed > 0) pick += randomBelow(g.ready_end - g.ready_begin);
  int id = g.ready[pick % kReadyRing];
  if (pick == g.ready_begin) {
    ++g.ready_begin;
  } else {
    g.ready[pick % kReadyRing] = g.ready[--g.ready_end % kReadyRing];
  }
  return g.team->threads[id];
}

SIMT_UNSANITIZED void threadMain() {
  fiberEntered(g.current->fiber);
  for (;;) {
    acquire(g.start_tag);
    acquire(g.team->end_tag[1 - g.team->turn]);  // of the block that had this shared memory before
    (*g.body)();
    release(g.team->end_tag[g.team->turn]);
    Thread& thread = *g.current;
    if (thread.copies != 0) fail("a thread ended with asynchronous copies that it never waited for");
    requireNoProducts(thread);
    thread.op = Op::kExited;
    g.warps[thread.warp].exited |= 1U << thread.lane;
    ++g.exited;
    yieldFrom(thread);
  }
}

SIMT_UNSANITIZED void growTeam(Team& team, int threads) {
  if (team.arena == nullptr) {
    makeAgent(team.agent);
    void* memory = mmap(nullptr, kArenaSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    team.arena = static_cast<char*>(memory);
  }
  while (static_cast<int>(team.threads.size()) < threads) {
    // NOTES: mmap, because ThreadSanitizer would take an allocator's writes for the launcher's.
    void* memory = mmap(nullptr, sizeof(Thread), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    auto* thread = static_cast<Thread*>(memory);
    thread->fiber = makeFiber(threadMain);
    team.threads.push_back(thread);
  }
}

SIMT_UNSANITIZED void* allocateShared(size_t bytes, size_t alignment) {
  if (alignment > kMaxSharedAlignment) fail("shared memory aligned to more than 1024 bytes");
  size_t const step = std::max(alignment, kRedzone);
  size_t const offset = (g.arena_used + kRedzone + step - 1) / step * step;
  g.shared_bytes += bytes;
  if (offset + bytes + kRedzone > kArenaSize ||
      g.shared_bytes > static_cast<size_t>(configuration().shared_limit)) {
    fail("more shared memory than a block may have");
  }
  char* address = g.team->arena + offset;
#ifdef SIMT_ASAN
  __asan_unpoison_memory_region(address, bytes);
#endif
  g.arena_used = offset + bytes;
  // What nobody wrote is a NaN in every floating-point type.
  for (size_t i = 0; i < bytes; ++i) const_cast<char volatile*>(address)[i] = static_cast<char>(0xFF);
  return address;
}

SIMT_UNSANITIZED void prepareBlock(unsigned linear) {
  g.block_index.x = linear % g.grid.x;
  g.block_index.y = linear / g.grid.x % g.grid.y;
  g.block_index.z = linear / (g.grid.x * g.grid.y);
  memset(g.warps, 0, sizeof g.warps);
  memset(&g.barrier, 0, sizeof g.barrier);
  g.ready_begin = g.ready_end = 0;
  g.exited = g.shared_count = 0;
  g.arena_used = g.shared_bytes = 0;
  g.phases.count = 0;
  g.bulk.reset();
  memset(g.named, 0, sizeof g.named);
  for (WarpProducts& products : g.products) products.reset();
  for (int i = 0; i < g.threads; ++i) {
    Thread& thread = *g.team->threads[i];
    thread.id = i;
    thread.lane = i % kWarpSize;
    thread.warp = i / kWarpSize;
    thread.copies = thread.copy_group = 0;
    unsigned n = static_cast<unsigned>(i);
    thread.thread_idx = {n % g.block.x, n / g.block.x % g.block.y, n / (g.block.x * g.block.y)};
    makeReady(thread);
  }
  for (int i = g.threads; i % kWarpSize != 0; ++i) g.warps[i / kWarpSize].exited |= 1U << (i % kWarpSize);
#ifdef SIMT_ASAN
  __asan_poison_memory_region(g.team->arena, kArenaSize);
#endif
  g.dynamic = nullptr;
}

// What a block may not leave behind; null if there is nothing.
SIMT_UNSANITIZED char const* wrongAtEnd() {
  if (g.bulk.count != 0) return "a block ended with bulk copies that nobody waited for";
  return sameProducts(g.products, g.threads) ? nullptr : "the warps of a warpgroup issued different products";
}

SIMT_UNSANITIZED bool runBlock(unsigned linear) {
  prepareBlock(linear);
  Thread* first = pickNext();
  g.current = first;
  switchFiber(&g.launcher, first->fiber);
  g.current = nullptr;
  if (g.failed) return false;
  char const* wrong =
      "deadlock: no thread can run (a divergent barrier, a collective that its mask's lanes do not all "
      "reach, "
      "or a phase of an mbarrier that never ends)";
  if (g.exited == g.threads) wrong = wrongAtEnd();
  if (wrong != nullptr) report(wrong, nullptr);
  return wrong == nullptr;
}

// A random (or reversed, or plain) order of the blocks: linear = a * i + b, modulo their number.
void blockOrder(unsigned blocks, unsigned& a, unsigned& b) {
  a = 1;
  b = 0;
  long seed = configuration().seed;
  if (seed > 0) {
    b = randomBelow(blocks);
    do {
      a = 1 + randomBelow(blocks);
    } while (std::gcd(a, blocks) != 1);
  } else if (seed < 0) {
    a = std::max(blocks - 1, 1U);
    b = blocks - 1;
  }
}

bool runGrid() {
  int teams = std::min(kTeams, std::max(1, kMaxFibers / g.threads));
  for (int i = 0; i < teams; ++i) growTeam(g.teams[i], g.threads);
  makeAgent(g.reader);
  initLauncher(&g.launcher);
  release(g.start_tag);
  unsigned blocks = g.grid.x * g.grid.y * g.grid.z, a = 1, b = 0;
  blockOrder(blocks, a, b);
  bool good = true;
  for (unsigned i = 0; i < blocks && good; ++i) {
    g.team = &g.teams[i % static_cast<unsigned>(teams)];
    g.team->turn = 1 - g.team->turn;
    good = runBlock(static_cast<unsigned>((static_cast<uint64_t>(a) * i + b) % blocks));
  }
  for (int i = 0; i < teams; ++i) {
    acquire(g.teams[i].end_tag[0]);
    acquire(g.teams[i].end_tag[1]);
  }
  return good;
}

// After a failure the fibers stand somewhere inside the kernel: start them afresh.
void resetThreads() {
  for (Team& team : g.teams) {
    for (Thread* thread : team.threads) resetFiber(thread->fiber, threadMain);
  }
}

}  // namespace

SIMT_UNSANITIZED State& state() {
  return g;
}

SIMT_UNSANITIZED void makeReady(Thread& thread, bool first) {
  thread.op = Op::kNone;
  g.ready[(first ? --g.ready_begin : g.ready_end++) % kReadyRing] = thread.id;
}

// Returns when this thread is picked again.
SIMT_UNSANITIZED void yieldFrom(Thread& thread) {
  Thread* next = pickNext();
  if (next == &thread) return;
  g.current = next;
  switchFiber(thread.fiber, next != nullptr ? next->fiber : &g.launcher);
}

SIMT_UNSANITIZED void perhapsYield() {
  if (configuration().seed <= 0 || randomBelow(4) != 0) return;
  makeReady(self());
  yieldFrom(self());
}

SIMT_UNSANITIZED unsigned randomBelow(unsigned bound) {
  g.random ^= g.random << 13;
  g.random ^= g.random >> 7;
  g.random ^= g.random << 17;
  return static_cast<unsigned>((g.random >> 11) % bound);
}

SIMT_UNSANITIZED Thread& self() {
  return *g.current;
}
SIMT_UNSANITIZED dim3 const& blockShape() {
  return g.block;
}
SIMT_UNSANITIZED dim3 const& gridShape() {
  return g.grid;
}
SIMT_UNSANITIZED uint3 const& blockIndex() {
  return g.block_index;
}
SIMT_UNSANITIZED char* dynamicShared(size_t alignment) {
  if (g.dynamic == nullptr && g.dynamic_bytes != 0) {
    g.dynamic = static_cast<char*>(allocateShared(g.dynamic_bytes, alignment));
  }
  return g.dynamic;
}
char const* lastError() {
  return g.error;
}

SIMT_UNSANITIZED void fail(char const* message) {
  Thread* culprit = g.current;
  report(message, culprit);
  g.failed = true;
  if (culprit == nullptr) {
    fprintf(stderr, "simt: %s\n", g.error);
    abort();
  }
  switchFiber(culprit->fiber, &g.launcher);
  abort();  // never switched back to
}

SIMT_UNSANITIZED BarrierResult blockBarrier(int line, bool predicate) {
  Thread& thread = self();
  Barrier& barrier = g.barrier;
  if (barrier.arrived == 0) {
    barrier.line = line;
    barrier.any = barrier.count = 0;
    barrier.all = 1;
  } else if (barrier.line != line) {
    fail("threads of one block wait in different __syncthreads");
  }
  if (g.exited != 0) fail("__syncthreads after a thread of the block has exited");
  barrier.any |= predicate ? 1 : 0;
  barrier.all &= predicate ? 1 : 0;
  barrier.count += predicate ? 1 : 0;
  int parity = barrier.parity;
  release(barrier.tag[parity]);
  thread.op = Op::kBarrier;
  if (++barrier.arrived == g.threads) {
    barrier.result[parity] = {barrier.any, barrier.all, barrier.count};
    barrier.arrived = 0;
    barrier.parity = 1 - parity;
    for (int i = 0; i < g.threads; ++i) makeReady(*g.team->threads[i]);
  }
  yieldFrom(thread);
  acquire(barrier.tag[parity]);
  return barrier.result[parity];
}

SIMT_UNSANITIZED void collective(Op op, unsigned mask, void* payload, Leader leader) {
  Thread& thread = self();
  Warp const& warp = g.warps[thread.warp];
  Thread* const* lanes = &g.team->threads[static_cast<size_t>(thread.warp) * kWarpSize];
  if ((mask >> thread.lane & 1U) == 0) fail("a lane is not in the mask of its own collective");
  if ((mask & warp.exited) != 0) fail("the mask of a collective names a lane that has exited or never was");
  thread.op = op;
  thread.mask = mask;
  thread.payload = payload;
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    Thread const& lane = *lanes[__builtin_ctz(rest)];
    if (lane.op != op || lane.mask != mask) return yieldFrom(thread);
  }
  if (leader != nullptr) leader(lanes, mask);
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) makeReady(*lanes[__builtin_ctz(rest)]);
  yieldFrom(thread);
}

namespace {
SIMT_UNSANITIZED void flipParity(Thread* const* lanes, unsigned mask) {
  Warp& warp = g.warps[lanes[__builtin_ctz(mask)]->warp];
  warp.parity = 1 - warp.parity;
}
}  // namespace

SIMT_UNSANITIZED void syncWarp(unsigned mask) {
  // One pair of tags a warp: with masks of part of it, an edge too many may hide a race.
  Warp& warp = g.warps[self().warp];
  int parity = warp.parity;
  release(warp.tag[parity]);
  collective(Op::kSyncWarp, mask, nullptr, flipParity);
  acquire(warp.tag[parity]);
}

SIMT_UNSANITIZED void* sharedVariable(void const* key, size_t bytes, size_t alignment) {
  for (int i = 0; i < g.shared_count; ++i) {
    if (g.shared[i].key == key) return g.shared[i].address;
  }
  if (g.shared_count == kMaxSharedVariables) fail("too many shared variables");
  void* address = allocateShared(bytes, alignment);
  g.shared[g.shared_count++] = {key, address};
  return address;
}

cudaError_t launch(char const* name, dim3 grid, dim3 block, size_t shared_bytes,
                   std::function<void()> const& body) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  g.kernel = name;
  g.grid = grid;
  g.block = block;
  g.body = &body;
  g.error[0] = '\0';
  g.failed = false;
  uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  bool grid_good = grid.x != 0 && grid.y != 0 && grid.z != 0 && grid.y <= 65535 && grid.z <= 65535;
  bool const shared_good = shared_bytes <= static_cast<size_t>(configuration().shared_limit);
  if (threads == 0 || threads > kMaxThreads || !grid_good || !shared_good) {
    snprintf(g.error, sizeof g.error,
             "kernel %s: a grid of (%u, %u, %u), %u threads, %zu bytes of shared memory", name, grid.x,
             grid.y, grid.z, static_cast<unsigned>(threads), shared_bytes);
    return cudaErrorInvalidConfiguration;
  }
  g.threads = static_cast<int>(threads);
  g.random = 0x9E3779B97F4A7C15ULL * static_cast<uint64_t>(configuration().seed + 1) | 1U;
  g.dynamic_bytes = shared_bytes;
  if (runGrid()) return cudaSuccess;
  fprintf(stderr, "simt: %s\n", g.error);
  resetThreads();
  return cudaErrorLaunchFailure;
}

}  // namespace simt

extern "C" __attribute__((visibility("default"))) char const* simt_last_error() {
  return simt::lastError();
}
