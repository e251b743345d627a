// Router logits x W^T in FP32, by tensor cores: x is exact in one or two BF16 numbers and W in three, so that
// every product of parts is exact. What is left is the rounding of FP32 sums.
//
// Tensor cores sum up a stretch of 64 columns; stretches are added in their order inside a slice of the
// columns, and slices in their order. Both kernels keep to this, so a token's routing does not depend on how
// many others there are.
//
// This kernel is for few tokens: every block has all of them and a part of the experts. Bytes: W once, 4 E D,
// which bounds it (7 MB of 256 experts of 7168: 2 us of an H100's memory); FLOPs: 6 T E D.
#include "../common/mma.cuh"
#include "router_logits.cuh"

namespace r1trt::kernels::moe {

cudaError_t launchRouterLogitsOfMany(LogitsProblem const& p, DataType type, cudaStream_t stream);

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kSteps = kLogitStretch / 16;
constexpr int kAtOnce = 4;  // stretches of a warp under way: few warps wait for all the weights
constexpr int kRound = kWarps * kAtOnce;
constexpr int kTileTokens = 16, kTileExperts = 8, kTile = kTileTokens * kTileExperts;

struct LogitsShared {
  float sum[kRound][kTile];  // of each stretch
};

// A stretch of a warp's tokens and experts, as it is loaded.
template <class T>
struct Piece {
  Vector<T, 2> x[kSteps][4];
  Vector<float, 2> w[kSteps][2];
};

template <class T>
__device__ __forceinline__ Vector<T, 2> pairAt(T const* source, bool valid) {
  Vector<T, 2> pair{};
  if (valid) pair = *reinterpret_cast<Vector<T, 2> const*>(source);
  return pair;
}

// What is outside becomes 0; hidden is a multiple of 16.
template <class T>
__device__ __forceinline__ void loadPiece(LogitsProblem const& p, int64_t token0, int expert0, int column0,
                                          int end, Piece<T>& piece) {
  int const lane = static_cast<int>(threadIdx.x) % kWarpSize, group = lane / 4, pair = lane % 4 * 2;
  auto const* const x = static_cast<T const*>(p.x) + (token0 + group) * p.hidden + pair;
  float const* const w = p.w + static_cast<int64_t>(expert0 + group) * p.hidden + pair;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    int const column = column0 + step * 16;
    bool const inside = column < end;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      piece.w[step][half] = pairAt(w + column + half * 8, inside && expert0 + group < p.experts);
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      int const row = r % 2 * 8;
      piece.x[step][r] =
          pairAt(x + row * p.hidden + column + r / 2 * 8, inside && token0 + group + row < p.tokens);
    }
  }
}

template <class T>
__device__ __forceinline__ void multiplyPiece(Piece<T> const& piece, float (&sum)[4]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    uint32_t a[kInputParts<T>][4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      uint32_t parts[kInputParts<T>];
      splitPair(toFloat(piece.x[step][r].value[0]), toFloat(piece.x[step][r].value[1]), parts);
#pragma unroll
      for (int i = 0; i < kInputParts<T>; ++i) a[i][r] = parts[i];
    }
    uint32_t low[kWeightParts], high[kWeightParts];
    splitPair(piece.w[step][0].value[0], piece.w[step][0].value[1], low);
    splitPair(piece.w[step][1].value[0], piece.w[step][1].value[1], high);
#pragma unroll
    for (int j = kWeightParts - 1; j >= 0; --j) {
      uint32_t const b[2] = {low[j], high[j]};
#pragma unroll
      for (int i = kInputParts<T> - 1; i >= 0; --i) Mma<__nv_bfloat16>::run(sum, a[i], b);
    }
  }
}

// Up to kRound stretches from `first` on, each by one warp, into shared memory.
template <class T>
__device__ __forceinline__ void sumStretches(LogitsProblem const& p, int64_t token0, int expert0, int first,
                                             int end, LogitsShared& shared) {
  int const lane = static_cast<int>(threadIdx.x) % kWarpSize,
            warp = static_cast<int>(threadIdx.x) / kWarpSize;
  Piece<T> piece[kAtOnce];
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    int const column = (first + warp + i * kWarps) * kLogitStretch;
    loadPiece(p, token0, expert0, column, end, piece[i]);
  }
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    float sum[4] = {};
    multiplyPiece(piece[i], sum);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      int const row = lane / 4 + j / 2 * 8, column = lane % 4 * 2 + j % 2;
      shared.sum[warp + i * kWarps][row * kTileExperts + column] = sum[j];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) routerLogitsKernel(LogitsProblem const p) {
  R1TRT_SHARED(LogitsShared, shared);
  int64_t const token0 = static_cast<int64_t>(blockIdx.x) * kTileTokens;
  int const expert0 = static_cast<int>(blockIdx.y) * kTileExperts, thread = static_cast<int>(threadIdx.x);
  int const stretches = ceilDiv(p.hidden, kLogitStretch), share = stretchesPerSlice(p.hidden);
  int const begin = static_cast<int>(blockIdx.z) * share;
  int const end = begin + share < stretches ? begin + share : stretches;
  int const last_column = end * kLogitStretch < p.hidden ? end * kLogitStretch : p.hidden;
  startNextGrid();
  float total = 0.0F;
  for (int first = begin; first < end; first += kRound) {
    sumStretches<T>(p, token0, expert0, first, last_column, shared);
    __syncthreads();
    for (int s = 0; s < kRound && first + s < end && thread < kTile; ++s) total += shared.sum[s][thread];
    __syncthreads();
  }
  int64_t const token = token0 + thread / kTileExperts;
  int const expert = expert0 + thread % kTileExperts;
  if (thread < kTile && token < p.tokens && expert < p.experts) {
    p.logits[(blockIdx.z * p.tokens + token) * p.experts + expert] = total;
  }
}

template <class T>
cudaError_t runFew(LogitsProblem const& p, cudaStream_t stream) {
  dim3 const grid(static_cast<unsigned>(ceilDiv<int64_t>(p.tokens, kTileTokens)),
                  static_cast<unsigned>(ceilDiv(p.experts, kTileExperts)),
                  static_cast<unsigned>(logitSlices(p.tokens, p.hidden)));
  return launch({"router_logits", grid, kThreads}, stream, routerLogitsKernel<T>, p);
}

}  // namespace

cudaError_t launchRouterLogits(Layer const& layer, cudaStream_t stream) {
  DynamicMoeParams const& params = layer.params;
  LogitsProblem const problem{params.x,     params.w_router, layer.workspace.routing.logits,
                              layer.tokens, params.hidden,   params.experts};
  constexpr int64_t kFewTokens = 64;
  if (layer.tokens > kFewTokens) return launchRouterLogitsOfMany(problem, params.data_type, stream);
  return params.data_type == DataType::kBFloat16 ? runFew<__nv_bfloat16>(problem, stream)
                                                 : runFew<__half>(problem, stream);
}

}  // namespace r1trt::kernels::moe
