#include <cstdlib>
#include <string>

#include "simt_block.h"

namespace simt {
namespace {

Configuration fromEnvironment() {
  Configuration result;
  if (char const* seed = getenv("SIMT_SEED")) result.seed = atol(seed);
  char const* copy = getenv("SIMT_COPY");
  std::string landing = copy != nullptr ? copy : "";
#ifdef SIMT_TSAN
  result.copy_landing = CopyLanding::kEager;  // the writer's own accesses, as early as they may happen
#else
  result.copy_landing = result.seed > 0 ? CopyLanding::kRandom : CopyLanding::kLate;
#endif
  if (landing == "late") result.copy_landing = CopyLanding::kLate;
  if (landing == "eager") result.copy_landing = CopyLanding::kEager;
  if (landing == "random") result.copy_landing = CopyLanding::kRandom;
  return result;
}

}  // namespace

Configuration& configuration() {
  static Configuration value = fromEnvironment();
  return value;
}

}  // namespace simt

// For who loads a library of kernels; `landing`: 0 late, 1 eager, 2 random.
extern "C" __attribute__((visibility("default"))) void simt_configure(long seed, int landing,
                                                                      int shared_limit) {
  simt::configuration() = {seed, static_cast<simt::CopyLanding>(landing), shared_limit};
}
