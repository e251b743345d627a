// Fibers: one per CUDA thread, switched by hand, and known to the sanitizers.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define SIMT_TSAN 1
#endif

// Scheduler code runs between two fibers, so a sanitizer must not look at it.
#define SIMT_UNSANITIZED __attribute__((no_sanitize("address", "thread", "undefined"), noinline))

namespace simt {

// The stack and the saved registers of something that can be switched to.
struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;  // null for the thread that launched
  size_t stack_size = 0;
  void const* stack_bottom = nullptr;  // as AddressSanitizer wants it
  void* fake_stack = nullptr;
  void* tsan = nullptr;
};

Fiber* makeFiber(void (*entry)());
// Back to the state before its first switch, whatever it was doing.
void resetFiber(Fiber* fiber, void (*entry)());
// To be called first in `entry`.
void fiberEntered(Fiber* fiber);
void switchFiber(Fiber* from, Fiber* to);
// Describes the calling thread, which fibers switch back to.
void initLauncher(Fiber* launcher);

// Whoever accesses memory beside the threads: to ThreadSanitizer a thread of its own.
struct Agent {
  void* tsan = nullptr;
};
// By the launcher: it sees what its maker has seen.
void makeAgent(Agent& agent);
void actAs(Agent& agent, void (*act)(void*), void* argument);

// Happens-before edges for ThreadSanitizer; nothing without it.
void release(void* tag);
void acquire(void* tag);

}  // namespace simt
