#include "simt_fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SIMT_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#if !defined(__x86_64__)
#error "simt_switch is written for x86-64"
#endif

// NOTES: saves only what the System V ABI lets a callee destroy not; swapcontext would make a system call.
extern "C" void simt_switch(void** save, void* to);
asm(R"(.text
.globl simt_switch
.hidden simt_switch
.type simt_switch,@function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch,.-simt_switch
)");

namespace simt {
namespace {

constexpr size_t kGuardSize = 4096;
#if defined(SIMT_ASAN) || defined(SIMT_TSAN)
constexpr size_t kStackSize = 512 << 10;
#else
constexpr size_t kStackSize = 128 << 10;
#endif
constexpr int kSavedRegisters = 6;

}  // namespace

SIMT_UNSANITIZED void resetFiber(Fiber* fiber, void (*entry)()) {
#ifdef SIMT_ASAN
  __asan_unpoison_memory_region(fiber->stack, fiber->stack_size);
#endif
  auto** top = reinterpret_cast<void**>(fiber->stack + fiber->stack_size);
  *--top = nullptr;  // a return address nobody uses: keeps the alignment of a call
  *--top = reinterpret_cast<void*>(entry);
  fiber->stack_pointer = top - kSavedRegisters;
  fiber->fake_stack = nullptr;
}

SIMT_UNSANITIZED Fiber* makeFiber(void (*entry)()) {
  auto* memory = static_cast<char*>(mmap(nullptr, kStackSize + kGuardSize, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (memory == MAP_FAILED || mprotect(memory, kGuardSize, PROT_NONE) != 0) {
    perror("simt: stack of a fiber");
    abort();
  }
  auto* fiber = new Fiber;
  fiber->stack = memory + kGuardSize;
  fiber->stack_size = kStackSize;
  fiber->stack_bottom = fiber->stack;
  resetFiber(fiber, entry);
#ifdef SIMT_TSAN
  fiber->tsan = __tsan_create_fiber(0);
#endif
  return fiber;
}

void initLauncher(Fiber* launcher) {
#ifdef SIMT_TSAN
  launcher->tsan = __tsan_get_current_fiber();
#endif
  pthread_attr_t attributes;
  void* bottom = nullptr;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) abort();
  pthread_attr_getstack(&attributes, &bottom, &launcher->stack_size);
  pthread_attr_destroy(&attributes);
  launcher->stack_bottom = bottom;
}

SIMT_UNSANITIZED void fiberEntered([[maybe_unused]] Fiber* fiber) {
#ifdef SIMT_ASAN
  __sanitizer_finish_switch_fiber(fiber->fake_stack, nullptr, nullptr);
#endif
}

SIMT_UNSANITIZED void switchFiber(Fiber* from, Fiber* to) {
#ifdef SIMT_ASAN
  __sanitizer_start_switch_fiber(&from->fake_stack, to->stack_bottom, to->stack_size);
#endif
#ifdef SIMT_TSAN
  constexpr unsigned kNoSync = 1;  // a switch orders nothing: only barriers do
  __tsan_switch_to_fiber(to->tsan, kNoSync);
#endif
  simt_switch(&from->stack_pointer, to->stack_pointer);
#ifdef SIMT_ASAN
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

SIMT_UNSANITIZED void makeAgent([[maybe_unused]] Agent& agent) {
#ifdef SIMT_TSAN
  if (agent.tsan == nullptr) agent.tsan = __tsan_create_fiber(0);
#endif
}

SIMT_UNSANITIZED void actAs([[maybe_unused]] Agent& agent, void (*act)(void*), void* argument) {
#ifdef SIMT_TSAN
  constexpr unsigned kNoSync = 1;
  void* const before = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(agent.tsan, kNoSync);
#endif
  act(argument);
#ifdef SIMT_TSAN
  __tsan_switch_to_fiber(before, kNoSync);
#endif
}

void release([[maybe_unused]] void* tag) {
#ifdef SIMT_TSAN
  __tsan_release(tag);
#endif
}

void acquire([[maybe_unused]] void* tag) {
#ifdef SIMT_TSAN
  __tsan_acquire(tag);
#endif
}

}  // namespace simt
