// How kernels are launched on a GPU, with a CUDA runtime that only takes notes. Prints one line a check.
#include <cstdio>
#include <cstring>

#include "kernels/common/platform.cuh"

namespace {

cudaError_t launch_error = cudaSuccess, attribute_error = cudaSuccess;
int launches = 0, last_errors_asked = 0, dynamic_limit = -1;
cudaLaunchConfig_t config{};
cudaLaunchAttribute attribute{};
int argument = 0;

}  // namespace

extern "C" cudaError_t cudaLaunchKernelExC(cudaLaunchConfig_t const* given, void const*, void** arguments) {
  ++launches;
  config = *given;
  if (given->numAttrs > 0) attribute = given->attrs[0];
  argument = *static_cast<int*>(arguments[0]);
  return launch_error;
}

extern "C" cudaError_t cudaFuncSetAttribute(void const*, cudaFuncAttribute name, int value) {
  if (name == cudaFuncAttributeMaxDynamicSharedMemorySize) dynamic_limit = value;
  return attribute_error;
}

// What an earlier call of somebody else left.
extern "C" cudaError_t cudaGetLastError() {
  ++last_errors_asked;
  return cudaErrorIllegalAddress;
}

namespace {

void kernel(int) {}

cudaError_t run(size_t shared, bool overlap = false) {
  dynamic_limit = -1;
  return r1trt::kernels::launch({"probe", dim3(3, 2), 64, shared, overlap}, nullptr, kernel, 7);
}

void say(char const* name, bool good) {
  std::printf("%s %s\n", name, good ? "good" : "wrong");
}

}  // namespace

int main() {
  say("launched", run(0) == cudaSuccess && launches == 1 && argument == 7 && config.gridDim.x == 3 &&
                      config.gridDim.y == 2 && config.blockDim.x == 64 && config.numAttrs == 0);
  say("earlier_errors", last_errors_asked == 0);
  say("small_shared",
      run(8 << 10) == cudaSuccess && dynamic_limit == -1 && config.dynamicSmemBytes == 8 << 10);
  // Static shared memory may be what brings the sum over 48 KiB.
  say("static_counts", run((8 << 10) + 16) == cudaSuccess && dynamic_limit == (8 << 10) + 16);
  say("large_shared", run(100 << 10) == cudaSuccess && dynamic_limit == 100 << 10);
  say("overlap", run(0, true) == cudaSuccess && config.numAttrs == 1 &&
                     attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization &&
                     attribute.val.programmaticStreamSerializationAllowed == 1);
  launch_error = cudaErrorInvalidConfiguration;
  say("own_error", run(0) == cudaErrorInvalidConfiguration);
  attribute_error = cudaErrorInvalidValue;
  int const before = launches;
  say("refused_shared", run(100 << 10) == cudaErrorInvalidValue && launches == before);
}
