// Prints the slots of what the plugin library calls itself, from NVIDIA's headers.
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "NvInferRuntime.h"

using namespace nvinfer1;

template <typename Function>
static long slotOf(Function function) {
  int64_t words[2];
  std::memcpy(words, &function, sizeof words);
  return static_cast<long>((words[0] - 1) / 8);
}

int main() {
  using Register = bool (IPluginRegistry::*)(IPluginCreatorInterface&, AsciiChar const*) noexcept;
  std::printf("findLogger %ld\n", slotOf(&ILoggerFinder::findLogger));
  std::printf("log %ld\n", slotOf(&ILogger::log));
  std::printf("registerCreator %ld\n", slotOf(static_cast<Register>(&IPluginRegistry::registerCreator)));
  using Deregister = bool (IPluginRegistry::*)(IPluginCreatorInterface const&) noexcept;
  std::printf("deregisterCreator %ld\n",
              slotOf(static_cast<Deregister>(&IPluginRegistry::deregisterCreator)));
  std::printf("getAllCreators %ld\n", slotOf(&IPluginRegistry::getAllCreators));
}
