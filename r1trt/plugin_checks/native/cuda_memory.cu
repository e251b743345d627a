// What the checks need of the CUDA runtime, under C names for ctypes: memory, a stream, graphs.
#include <cuda_runtime_api.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

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
