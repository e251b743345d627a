// C names of the launch functions and of what their tests need of the CUDA runtime, for ctypes.
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

EXPORT char const* r1trt_error_name(int error) {
  return cudaGetErrorName(static_cast<cudaError_t>(error));
}
EXPORT int r1trt_allocate(void** memory, size_t size) {
  return cudaMalloc(memory, size);
}
EXPORT int r1trt_free(void* memory) {
  return cudaFree(memory);
}
// NOTES: the stream of the tests does not wait for the default stream, and copies from pageable memory return
// early.
EXPORT int r1trt_copy(void* target, void const* source, size_t size) {
  cudaError_t const error = cudaMemcpy(target, source, size, cudaMemcpyDefault);
  return error != cudaSuccess ? error : cudaDeviceSynchronize();
}
EXPORT int r1trt_fill(void* memory, int byte, size_t size) {
  cudaError_t const error = cudaMemset(memory, byte, size);
  return error != cudaSuccess ? error : cudaDeviceSynchronize();
}
EXPORT int r1trt_synchronize() {
  cudaError_t const error = cudaDeviceSynchronize();
  cudaError_t const last = cudaGetLastError();
  return error != cudaSuccess ? error : last;
}
EXPORT int r1trt_stream_create(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
}
EXPORT int r1trt_capture_begin(cudaStream_t stream) {
  return cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
}
EXPORT int r1trt_capture_end(cudaStream_t stream, cudaGraphExec_t* executable) {
  cudaGraph_t graph = nullptr;
  if (cudaError_t const error = cudaStreamEndCapture(stream, &graph); error != cudaSuccess) return error;
  cudaError_t const error = cudaGraphInstantiate(executable, graph, 0);
  cudaGraphDestroy(graph);
  return error;
}
EXPORT int r1trt_graph_launch(cudaGraphExec_t executable, cudaStream_t stream) {
  return cudaGraphLaunch(executable, stream);
}
