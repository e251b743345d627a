// Messages to TensorRT's logger.
#pragma once

#include <cstdint>
#include <string>

namespace r1trt::plugins {

enum class Severity : int32_t { kInternalError = 0, kError = 1, kWarning = 2, kInfo = 3, kVerbose = 4 };

// Remembers TensorRT's nvinfer1::ILoggerFinder; null forgets it.
void setFinder(void* finder) noexcept;

// Sends a message to the logger of the process; to the standard error stream if there is none and it is an
// error.
void log(Severity severity, std::string const& message) noexcept;

}  // namespace r1trt::plugins
