// Tokens to their experts' rows, quantized on the way where the tensor cores take E4M3; and back, weighted.
//
// Bytes: x once, and its K rows written; K rows of the output in T read, and y written once. They are the
// bound.
#include "../common/numeric.cuh"
#include "quantize.cuh"
#include "stages.cuh"

namespace r1trt::kernels::moe {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = kQuantizedChunk;  // elements of one thread

struct PermuteProblem {
  int32_t const* row;
  int32_t const* shared_row;  // the shared expert's first, where it is a group; else null
  void const* x;
  Rows rows;           // by group
  Rows dense;          // by token, for a shared expert that is no group; data null: none
  float const* scale;  // static scale of x, or null
  int32_t hidden, top_k;
};

template <class T>
__device__ __forceinline__ void copyRow(PermuteProblem const& p, int64_t token, int32_t const* rows,
                                        int count) {
  using Vec = Vector<T, kVectorSize<T>>;
  int const vectors = p.hidden / kVectorSize<T>;
  auto const* source = static_cast<Vec const*>(p.x) + token * vectors;
  auto* const target = static_cast<Vec*>(p.rows.data);
  for (int i = static_cast<int>(threadIdx.x); i < vectors; i += kThreads) {
    Vec const value = source[i];
    for (int k = 0; k < count; ++k) {
      if (rows[k] >= 0) target[static_cast<int64_t>(rows[k]) * vectors + i] = value;
    }
  }
}

template <class T>
__device__ __forceinline__ void quantizeRow(PermuteProblem const& p, int64_t token, int32_t const* rows,
                                            int count) {
  int const chunks = p.hidden / kChunk;
  auto const* source = static_cast<T const*>(p.x) + token * p.hidden;
  // Whole warps come in, for the largest magnitude of a block is found by shuffles.
  for (int i = static_cast<int>(threadIdx.x); i - static_cast<int>(threadIdx.x) % kWarpSize < chunks;
       i += kThreads) {
    float value[kChunk] = {};
    if (i < chunks) loadChunk(source + i * kChunk, value);
    float const scale = p.scale != nullptr ? *p.scale : blockScale(value);
    if (i >= chunks) continue;
    QuantizedChunk const quantized = quantizeChunk(value, scale);
    for (int k = 0; k < count; ++k) {
      if (rows[k] >= 0) storeChunk(p.rows, rows[k], p.hidden, i, quantized, scale);
    }
    if (p.dense.data != nullptr) storeChunk(p.dense, token, p.hidden, i, quantized, scale);
  }
}

template <class T, bool kQuantized>
__global__ void __launch_bounds__(kThreads) permuteKernel(PermuteProblem const p) {
  int64_t const token = blockIdx.x;
  int32_t rows[kMaxTopK + 1];
#pragma unroll
  for (int k = 0; k < kMaxTopK; ++k) rows[k] = k < p.top_k ? p.row[token * p.top_k + k] : -1;
  bool const grouped = p.shared_row != nullptr;
  rows[p.top_k] = grouped ? *p.shared_row + static_cast<int32_t>(token) : -1;
  int const count = p.top_k + (grouped ? 1 : 0);
  if constexpr (kQuantized) {
    quantizeRow<T>(p, token, rows, count);
  } else {
    copyRow<T>(p, token, rows, count);
  }
}

struct CombineProblem {
  Routing routing;
  int64_t const* seq_len;
  void const* out;
  void const* shared_out;     // the shared expert's, by token; null: there is none
  int32_t const* shared_row;  // its first in `shared_out`; null: 0
  void* y;
  int32_t seq, hidden, top_k;
};

template <class T>
__device__ __forceinline__ void addScaled(float (&sum)[kVectorSize<T>], T const* source, float weight) {
  auto const value = *reinterpret_cast<Vector<T, kVectorSize<T>> const*>(source);
#pragma unroll
  for (int i = 0; i < kVectorSize<T>; ++i) sum[i] += weight * toFloat(value.value[i]);
}

template <class T>
__global__ void __launch_bounds__(kThreads) combineKernel(CombineProblem const p) {
  constexpr int kVec = kVectorSize<T>;
  int64_t const token = blockIdx.x;
  bool const real = p.seq_len == nullptr || token % p.seq < p.seq_len[token / p.seq];
  int32_t rows[kMaxTopK];
  float weights[kMaxTopK];
#pragma unroll
  for (int k = 0; k < kMaxTopK; ++k) {
    rows[k] = k < p.top_k ? p.routing.row[token * p.top_k + k] : -1;
    weights[k] = k < p.top_k ? p.routing.weight[token * p.top_k + k] : 0.0F;
  }
  int64_t const shared_row = token + (p.shared_row != nullptr ? *p.shared_row : 0);
  for (int column = static_cast<int>(threadIdx.x) * kVec; column < p.hidden; column += kThreads * kVec) {
    float sum[kVec] = {};
#pragma unroll
    for (int k = 0; k < kMaxTopK; ++k) {
      if (rows[k] < 0) continue;
      addScaled<T>(sum, static_cast<T const*>(p.out) + static_cast<int64_t>(rows[k]) * p.hidden + column,
                   weights[k]);
    }
    if (p.shared_out != nullptr && real) {
      addScaled<T>(sum, static_cast<T const*>(p.shared_out) + shared_row * p.hidden + column, 1.0F);
    }
    Vector<T, kVec> result;
#pragma unroll
    for (int i = 0; i < kVec; ++i) result.value[i] = fromFloat<T>(sum[i]);
    *reinterpret_cast<Vector<T, kVec>*>(static_cast<T*>(p.y) + token * p.hidden + column) = result;
  }
}

template <class T>
cudaError_t runPermute(Layer const& layer, PermuteProblem const& problem, cudaStream_t stream) {
  auto* const kernel = layer.quantized ? permuteKernel<T, true> : permuteKernel<T, false>;
  return launch({"moe_permute", dim3(static_cast<unsigned>(layer.tokens)), kThreads}, stream, kernel,
                problem);
}

// Where the shared expert's rows begin.
int32_t const* sharedRow(Layer const& layer) {
  return layer.grouped ? layer.workspace.routing.offset + layer.params.experts : nullptr;
}

}  // namespace

cudaError_t launchPermute(Layer const& layer, cudaStream_t stream) {
  DynamicMoeParams const& p = layer.params;
  Workspace const& w = layer.workspace;
  PermuteProblem const problem{w.routing.row, sharedRow(layer), p.x,      w.permuted,
                               w.shared_in,   p.x_scale,        p.hidden, p.top_k};
  return p.data_type == DataType::kBFloat16 ? runPermute<__nv_bfloat16>(layer, problem, stream)
                                            : runPermute<__half>(layer, problem, stream);
}

cudaError_t launchCombine(Layer const& layer, cudaStream_t stream) {
  DynamicMoeParams const& p = layer.params;
  Workspace const& w = layer.workspace;
  void const* const shared_out = layer.grouped ? w.out : layer.sharedAlone() ? w.shared_out : nullptr;
  CombineProblem const problem{w.routing, p.seq_len, w.out,    shared_out, sharedRow(layer),
                               p.y,       p.seq,     p.hidden, p.top_k};
  auto* const kernel =
      p.data_type == DataType::kBFloat16 ? combineKernel<__nv_bfloat16> : combineKernel<__half>;
  return launch({"moe_combine", dim3(static_cast<unsigned>(layer.tokens)), kThreads}, stream, kernel,
                problem);
}

}  // namespace r1trt::kernels::moe
