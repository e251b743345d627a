// The library's entry points: what TensorRT's registry asks for, and registration where nobody asks.
#include <cstdint>

#include "common/logger.h"
#include "common/operator_creator.h"
#include "common/registry.h"
#include "dynamic_moe/dynamic_moe_plugin.h"
#include "dynamic_rope/dynamic_rope_plugin.h"
#include "hla_attention/hla_attention_plugin.h"

#define R1TRT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace r1trt::plugins;

struct Creators {
  OperatorCreator<DynamicRopePlugin> dynamicRope;
  OperatorCreator<HlaAttentionPlugin> hlaAttention;
  OperatorCreator<DynamicMoePlugin> dynamicMoe;
  nvinfer1::IPluginCreatorInterface* all[3] = {&dynamicRope, &hlaAttention, &dynamicMoe};
};

// Never destroyed: a registry may hold the creators for longer than this library's own objects live.
Creators& creators() {
  static auto* const instance = new Creators;
  return *instance;
}

// What this file is, for tools that look at it without loading it.
#if !defined(R1TRT_BUILD_INFO)
#define R1TRT_BUILD_INFO "{}"
#endif
__attribute__((used)) char const buildInfo[] = "R1TRT_PLUGINS_INFO:" R1TRT_BUILD_INFO;

// A program that only loads the library, as Triton's TensorRT backend does, gets the plugins by this.
[[maybe_unused]] int const registered = registerWithProcess(creators().all, 3);

}  // namespace

R1TRT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  // Who asks registers them: IPluginRegistry::loadLibrary, perhaps long after the library was loaded.
  unregisterFromProcess();
  count = 3;
  return creators().all;
}

// TensorRT passes an nvinfer1::ILoggerFinder*, whose layout depends on its version.
R1TRT_EXPORT void setLoggerFinder(void* finder) {
  setFinder(finder);
}
