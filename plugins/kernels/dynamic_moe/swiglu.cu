// SwiGLU as a kernel of its own: for products whose epilogue cannot do it.
//
// Bytes: 2 F elements of a row read and F written; they are the bound. FLOPs: about 10 F a row.
#include "../common/numeric.cuh"
#include "quantize.cuh"
#include "stages.cuh"

namespace r1trt::kernels::moe {
namespace {

constexpr int kThreads = 128;
constexpr int kChunk = kQuantizedChunk;  // elements of one thread

struct SwiGluProblem {
  void const* gate_up;  // [A, 2F]
  Rows mid;             // [A, F]
  float const* scale;   // static scale of mid, or null
  int32_t const* end;   // behind the last row; null: all rows are
  int32_t width;
};

template <class T>
__device__ __forceinline__ void activateChunk(T const* row, int width, int column, float (&value)[kChunk]) {
  float up[kChunk];
  loadChunk(row + column, value);
  loadChunk(row + width + column, up);
#pragma unroll
  for (int i = 0; i < kChunk; ++i) value[i] = silu(value[i]) * up[i];
}

template <class T, bool kQuantized>
__global__ void __launch_bounds__(kThreads) swiGluKernel(SwiGluProblem const p) {
  int64_t const row = blockIdx.x;
  if (p.end != nullptr && row >= *p.end) return;  // the whole block: the grid is for the worst routing
  auto const* const source = static_cast<T const*>(p.gate_up) + row * 2 * p.width;
  int const chunks = p.width / kChunk;
  // Whole warps come in, for the largest magnitude of a block is found by shuffles.
  for (int i = static_cast<int>(threadIdx.x); i - static_cast<int>(threadIdx.x) % kWarpSize < chunks;
       i += kThreads) {
    float value[kChunk] = {};
    if (i < chunks) activateChunk<T>(source, p.width, i * kChunk, value);
    if constexpr (kQuantized) {
      float const scale = p.scale != nullptr ? *p.scale : blockScale(value);
      if (i < chunks) storeChunk(p.mid, row, p.width, i, quantizeChunk(value, scale), scale);
    } else if (i < chunks) {
      T* const target = static_cast<T*>(p.mid.data) + row * p.width + i * kChunk;
#pragma unroll
      for (int j = 0; j < kChunk; j += kVectorSize<T>) {
        Vector<T, kVectorSize<T>> part;
#pragma unroll
        for (int l = 0; l < kVectorSize<T>; ++l) part.value[l] = fromFloat<T>(value[j + l]);
        *reinterpret_cast<Vector<T, kVectorSize<T>>*>(target + j) = part;
      }
    }
  }
}

template <class T>
cudaError_t run(Layer const& layer, SwiGluProblem const& problem, int64_t rows, cudaStream_t stream) {
  auto* const kernel = layer.quantized ? swiGluKernel<T, true> : swiGluKernel<T, false>;
  return launch({"moe_swiglu", dim3(static_cast<unsigned>(rows)), kThreads}, stream, kernel, problem);
}

}  // namespace

cudaError_t launchSwiGlu(Layer const& layer, bool shared, cudaStream_t stream) {
  DynamicMoeParams const& p = layer.params;
  Workspace const& w = layer.workspace;
  SwiGluProblem const groups{w.gate_up, w.mid, p.mid_scale, w.routing.offset + layer.groups(), p.width};
  SwiGluProblem const alone{w.shared_gate_up, w.shared_mid, p.mid_scale, nullptr, p.shared_width};
  SwiGluProblem const& problem = shared ? alone : groups;
  int64_t const rows = shared ? layer.tokens : layer.allRows();
  return p.data_type == DataType::kBFloat16 ? run<__nv_bfloat16>(layer, problem, rows, stream)
                                            : run<__half>(layer, problem, rows, stream);
}

}  // namespace r1trt::kernels::moe
