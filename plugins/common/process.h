// What TensorRT objects of this process look like where versions differ: the logger and the plugin registry.
#pragma once

#include <cstdint>

namespace r1trt::plugins {

// How a TensorRT library lays out what a plugin library calls.
enum class Layout : int32_t {
  kUnknown = 0,
  kVersion10 = 10,  // ILogger, ILoggerFinder: plain classes; the registry still has its V2 functions
  kVersion11 =
      11,  // both are versioned interfaces; the V2 functions are gone. TensorRT-RTX 1.7 has this layout
};

// The layout that a library with this getInferLibVersion() has; kUnknown for versions nobody has looked at.
Layout layoutOfVersion(int32_t version) noexcept;

// The layout of the library whose code or data `address` points into; kUnknown if it is no TensorRT library.
Layout layoutOfAddress(void const* address) noexcept;

// Whether the calling thread runs a function of the library that `address` points into, at any depth.
bool isOnCallStack(void const* address) noexcept;

// Calls virtual function `slot` of an object.
template <typename Result, typename... Arguments>
Result callSlot(void* object, int slot, Arguments... arguments) {
  using Function = Result (*)(void*, Arguments...);
  auto const* table = *static_cast<Function const* const*>(object);
  return table[slot](object, arguments...);
}

}  // namespace r1trt::plugins
