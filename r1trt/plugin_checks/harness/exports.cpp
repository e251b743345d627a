// The two functions of TensorRT that the plugin library looks for in its process. Without TensorRT's headers,
// which declare one of them differently.
#include <cstdint>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace harness {

void* registryOfMajor(int32_t major);

static int32_t version = 110100;

int32_t majorVersion() {
  return version / 10000;
}

}  // namespace harness

EXPORT int32_t getInferLibVersion() {
  return harness::version;
}
EXPORT void* getPluginRegistry() {
  return harness::registryOfMajor(harness::majorVersion());
}
EXPORT void harness_set_version(int32_t version) {
  harness::version = version;
}
