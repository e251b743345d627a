#include "logger.h"

#include <atomic>
#include <cstdio>

#include "process.h"

namespace r1trt::plugins {

namespace {

// findLogger and log sit in slot 0 until TensorRT 10 and, behind a versioned interface's functions, in slot 4
// from 11.
constexpr int kSlotVersion10 = 0;
constexpr int kSlotVersion11 = 4;

std::atomic<void*> loggerFinder{nullptr};

void const* tableOf(void* object) {
  return *static_cast<void const* const*>(object);
}

// Returns the logger of the process and its slot, or null: a registry has a logger only once a builder or
// runtime was made with one.
void* findLogger(int& slot) {
  void* finder = loggerFinder.load(std::memory_order_acquire);
  if (finder == nullptr) return nullptr;
  Layout const layout = layoutOfAddress(tableOf(finder));
  if (layout == Layout::kUnknown) return nullptr;
  slot = layout == Layout::kVersion10 ? kSlotVersion10 : kSlotVersion11;
  return callSlot<void*>(finder, slot);
}

}  // namespace

void setFinder(void* finder) noexcept {
  loggerFinder.store(finder, std::memory_order_release);
}

void log(Severity severity, std::string const& message) noexcept {
  int slot = 0;
  if (void* logger = findLogger(slot)) {
    callSlot<void, int32_t, char const*>(logger, slot, static_cast<int32_t>(severity), message.c_str());
  } else if (severity <= Severity::kError) {
    std::fprintf(stderr, "[r1trt plugins] %s\n", message.c_str());
  }
}

}  // namespace r1trt::plugins
