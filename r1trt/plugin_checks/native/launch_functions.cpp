// C names of the launch functions, for ctypes: compiled for a GPU, and for the host layer.
#include <cuda_runtime_api.h>

#include <new>

#include "dynamic_moe/dynamic_moe.h"
#include "dynamic_rope/dynamic_rope.h"
#include "hla_attention/hla_attention.h"

#define EXPORT extern "C" __attribute__((visibility("default")))
#define OPERATOR(name, Params, launch_function, workspace_expression)                           \
  EXPORT int r1trt_sizeof_##name() {                                                            \
    return static_cast<int>(sizeof(r1trt::kernels::Params));                                    \
  }                                                                                             \
  EXPORT void r1trt_defaults_##name(void* memory) {                                             \
    new (memory) r1trt::kernels::Params;                                                        \
  }                                                                                             \
  EXPORT size_t r1trt_workspace_##name([[maybe_unused]] r1trt::kernels::Params const* params) { \
    return workspace_expression;                                                                \
  }                                                                                             \
  EXPORT int r1trt_launch_##name(r1trt::kernels::Params const* params, cudaStream_t stream) {   \
    return r1trt::kernels::launch_function(*params, stream);                                    \
  }

OPERATOR(dynamic_rope, DynamicRopeParams, launchDynamicRope, 0)
OPERATOR(hla_attention, HlaAttentionParams, launchHlaAttention,
         r1trt::kernels::hlaAttentionWorkspaceSize(*params))
OPERATOR(dynamic_moe, DynamicMoeParams, launchDynamicMoe, r1trt::kernels::dynamicMoeWorkspaceSize(*params))
