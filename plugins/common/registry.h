// The plugin registry that this process already holds, if any.
#pragma once

#include "tensorrt.h"

namespace r1trt::plugins {

// Registers creators with the process's registry, unless it has plugins of the same name, version and
// namespace.
//
// For programs that load the library with dlopen and nothing else, as Triton's TensorRT backend does. No
// registry is made and no library is loaded: TensorRT must be in the process already. Does nothing within
// IPluginRegistry::loadLibrary, which asks for getCreators() itself.
//
// Returns how many were registered.
int registerWithProcess(nvinfer1::IPluginCreatorInterface* const* creators, int32_t count) noexcept;

// Takes back what registerWithProcess did: loadLibrary refuses a library whose creators are there already.
void unregisterFromProcess() noexcept;

}  // namespace r1trt::plugins
