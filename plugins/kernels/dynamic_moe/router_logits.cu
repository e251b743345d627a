// Router logits x W^T in FP32, by tensor cores: x is exact in one or two BF16 numbers and W in three, so that
// every product of parts is exact. What is left is the rounding of FP32 sums.
#include "../common/mma.cuh"
#include "../common/numeric.cuh"
#include "stages.cuh"

namespace r1trt::kernels::moe {
namespace {

constexpr int kWarps = 8;     // share the columns of x: warp w takes every 8th stretch of kStretch
constexpr int kStretch = 64;  // columns that tensor cores sum up before an FP32 addition
constexpr int kWeightParts = 3;

template <class T>
constexpr int kInputParts = 1;
template <>
constexpr int kInputParts<__half> = 2;

// Splits two neighbours into parts of BF16, the first the largest.
template <int kParts>
__device__ __forceinline__ void splitPair(float low, float high, uint32_t (&parts)[kParts]) {
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    parts[i] = packPair<__nv_bfloat16>(low, high);
    low -= __uint_as_float(parts[i] << 16);
    high -= __uint_as_float(parts[i] & 0xFFFF0000U);
  }
}

struct LogitsProblem {
  void const* x;
  float const* w;
  float* logits;
  uint32_t* ticket;
  int64_t tokens;
  int32_t hidden, experts;
};

template <int kMTiles, int kNTiles>
__device__ __forceinline__ void addTo(float (&sum)[kMTiles][kNTiles][4],
                                      float const (&partial)[kMTiles][kNTiles][4]) {
#pragma unroll
  for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[m][n][i] += partial[m][n][i];
    }
  }
}

// kSteps times 16 columns of a warp's tokens and experts, as they are loaded.
template <class T, int kMTiles, int kNTiles, int kSteps>
struct Piece {
  Vector<T, 2> x[kSteps][kMTiles][4];
  Vector<float, 2> w[kSteps][kNTiles][2];
};

template <class T>
__device__ __forceinline__ Vector<T, 2> pairAt(T const* source, bool valid) {
  Vector<T, 2> pair{};
  if (valid) pair = *reinterpret_cast<Vector<T, 2> const*>(source);
  return pair;
}

// What is outside becomes 0; hidden is a multiple of 16.
template <class T, int kMTiles, int kNTiles, int kSteps>
__device__ __forceinline__ void loadPiece(LogitsProblem const& p, int64_t token0, int expert0, int column0,
                                          Piece<T, kMTiles, kNTiles, kSteps>& piece) {
  int const lane = static_cast<int>(threadIdx.x) % kWarpSize, group = lane / 4, pair = lane % 4 * 2;
  auto const* const x = static_cast<T const*>(p.x);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    int const column = column0 + step * 16;
    bool const inside = column < p.hidden;
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        int64_t const token = token0 + m * 16 + group + r % 2 * 8;
        piece.x[step][m][r] =
            pairAt(x + token * p.hidden + column + pair + r / 2 * 8, inside && token < p.tokens);
      }
    }
#pragma unroll
    for (int n = 0; n < kNTiles; ++n) {
      int const expert = expert0 + n * 8 + group;
      float const* const w = p.w + static_cast<int64_t>(expert) * p.hidden + column + pair;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        piece.w[step][n][half] = pairAt(w + half * 8, inside && expert < p.experts);
      }
    }
  }
}

template <class T, int kMTiles, int kNTiles, int kSteps>
__device__ __forceinline__ void multiplyPiece(Piece<T, kMTiles, kNTiles, kSteps> const& piece,
                                              float (&partial)[kMTiles][kNTiles][4]) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    uint32_t a[kInputParts<T>][kMTiles][4];
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        uint32_t parts[kInputParts<T>];
        splitPair(toFloat(piece.x[step][m][r].value[0]), toFloat(piece.x[step][m][r].value[1]), parts);
#pragma unroll
        for (int i = 0; i < kInputParts<T>; ++i) a[i][m][r] = parts[i];
      }
    }
#pragma unroll
    for (int n = 0; n < kNTiles; ++n) {
      uint32_t low[kWeightParts], high[kWeightParts];
      splitPair(piece.w[step][n][0].value[0], piece.w[step][n][0].value[1], low);
      splitPair(piece.w[step][n][1].value[0], piece.w[step][n][1].value[1], high);
#pragma unroll
      for (int j = kWeightParts - 1; j >= 0; --j) {
        uint32_t const b[2] = {low[j], high[j]};
#pragma unroll
        for (int i = kInputParts<T> - 1; i >= 0; --i) {
#pragma unroll
          for (int m = 0; m < kMTiles; ++m) Mma<__nv_bfloat16>::run(partial[m][n], a[i][m], b);
        }
      }
    }
  }
}

// A warp's share of kMTiles * 16 tokens by kNTiles * 8 experts.
template <class T, int kMTiles, int kNTiles>
__device__ __forceinline__ void sumColumns(LogitsProblem const& p, int64_t token0, int expert0, int column0,
                                           float (&sum)[kMTiles][kNTiles][4]) {
  constexpr int kStride = kWarps * kStretch;
  if constexpr (kMTiles * kNTiles == 1) {
    // Few warps wait for all the weights: the next stretch is on its way while this one is multiplied.
    Piece<T, 1, 1, kStretch / 16> piece, next;
    loadPiece(p, token0, expert0, column0, piece);
#pragma unroll 2
    for (int column = column0; column < p.hidden; column += kStride) {
      float partial[1][1][4] = {};
      loadPiece(p, token0, expert0, column + kStride, next);
      multiplyPiece(piece, partial);
      addTo(sum, partial);
      piece = next;
    }
  } else {
    for (int column = column0; column < p.hidden; column += kStride) {
      float partial[kMTiles][kNTiles][4] = {};
#pragma unroll
      for (int step = 0; step < kStretch; step += 16) {
        if (column + step >= p.hidden) break;
        Piece<T, kMTiles, kNTiles, 1> piece;
        loadPiece(p, token0, expert0, column + step, piece);
        multiplyPiece(piece, partial);
      }
      addTo(sum, partial);
    }
  }
}

template <class T, int kMTiles, int kNTiles>
__global__ void __launch_bounds__(kWarps* kWarpSize) routerLogitsKernel(LogitsProblem const p) {
  constexpr int kTileTokens = kMTiles * 16, kTileExperts = kNTiles * 8, kTile = kTileTokens * kTileExperts;
  R1TRT_DYNAMIC_SHARED(memory);
  auto* const sums = reinterpret_cast<float*>(memory);  // [kWarps, kTileTokens, kTileExperts]
  int const lane = static_cast<int>(threadIdx.x) % kWarpSize,
            warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int64_t const token0 = static_cast<int64_t>(blockIdx.x) * kTileTokens;
  int const expert0 = static_cast<int>(blockIdx.y) * kTileExperts;
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *p.ticket = 0;  // for the next kernel

  float sum[kMTiles][kNTiles][4] = {};
  sumColumns<T>(p, token0, expert0, warp * kStretch, sum);
#pragma unroll
  for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int const row = m * 16 + lane / 4 + i / 2 * 8, column = n * 8 + lane % 4 * 2 + i % 2;
        sums[warp * kTile + row * kTileExperts + column] = sum[m][n][i];
      }
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kTile; i += kWarps * kWarpSize) {
    float total = 0.0F;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w * kTile + i];
    int64_t const token = token0 + i / kTileExperts;
    int const expert = expert0 + i % kTileExperts;
    if (token < p.tokens && expert < p.experts) p.logits[token * p.experts + expert] = total;
  }
}

template <class T, int kMTiles, int kNTiles>
cudaError_t run(LogitsProblem const& p, cudaStream_t stream) {
  constexpr int kTileTokens = kMTiles * 16, kTileExperts = kNTiles * 8;
  dim3 const grid(static_cast<unsigned>(ceilDiv<int64_t>(p.tokens, kTileTokens)),
                  static_cast<unsigned>(ceilDiv(p.experts, kTileExperts)));
  size_t const shared = sizeof(float) * kWarps * kTileTokens * kTileExperts;
  return launch({"router_logits", grid, kWarps * kWarpSize, shared}, stream,
                routerLogitsKernel<T, kMTiles, kNTiles>, p);
}

// NOTES: both tiles sum a logit in the same order, so a token's routing does not depend on how many others
// there are.
template <class T>
cudaError_t runTyped(LogitsProblem const& p, cudaStream_t stream) {
  constexpr int64_t kFewTokens = 256;
  return p.tokens <= kFewTokens ? run<T, 1, 1>(p, stream) : run<T, 4, 4>(p, stream);
}

}  // namespace

cudaError_t launchRouterLogits(Layer const& layer, cudaStream_t stream) {
  DynamicMoeParams const& params = layer.params;
  Routing const& routing = layer.workspace.routing;
  LogitsProblem const problem{params.x,     params.w_router, routing.logits, routing.ticket,
                              layer.tokens, params.hidden,   params.experts};
  return params.data_type == DataType::kBFloat16 ? runTyped<__nv_bfloat16>(problem, stream)
                                                 : runTyped<__half>(problem, stream);
}

}  // namespace r1trt::kernels::moe
