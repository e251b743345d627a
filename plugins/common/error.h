// How the plugins fail: an exception inside, a message to TensorRT's logger and a status outside.
#pragma once

#include <stdexcept>
#include <string>

#include "logger.h"

namespace r1trt::plugins {

// What was wrong and what is expected; the layer and the function are added where it is reported.
class PluginError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Runs `body` and turns an exception into a logged error and `failure`: nothing may cross TensorRT's
// interfaces.
template <typename Result, typename Body>
Result guarded(std::string const& where, char const* function, Result failure, Body&& body) noexcept {
  try {
    return body();
  } catch (std::exception const& error) {
    log(Severity::kError, where + ": " + function + ": " + error.what());
  } catch (...) {
    log(Severity::kInternalError, where + ": " + function + ": unknown exception");
  }
  return failure;
}

}  // namespace r1trt::plugins
