// Router logits of many tokens: tiles of tokens by experts, 8 warps of 2 x 4, 32 columns a stage.
//
// FLOPs: 6 T E D by BF16 tensor cores, three parts of a weight; bytes: x and W once from memory, x once for
// each tile of experts and W once for each of tokens from L2. 8192 tokens of 7168 and 256 experts: 90 GFLOP,
// 160 us at the 560 TFLOP/s that mma.sync can have on an H100, which bounds it; 40 us for the bytes.
#include "../common/mma.cuh"
#include "router_logits.cuh"

namespace r1trt::kernels::moe {
namespace {

constexpr int kWarpsAlongTokens = 2, kWarpsAlongExperts = 4;
constexpr int kThreads = kWarpsAlongTokens * kWarpsAlongExperts * kWarpSize;
constexpr int kColumns = 32;  // of a stage; two stages are a stretch
constexpr int kRowBytes = kColumns * 2;
constexpr int kStagesPerStretch = kLogitStretch / kColumns;
constexpr int kLeastLargeTiles = 96;  // fewer leave multiprocessors without one

template <class T, int kMTiles, int kNTiles>
struct ManyTile {
  using Type = T;
  static constexpr int kM = kMTiles, kN = kNTiles;
  static constexpr int kTokens = kWarpsAlongTokens * kM * 16, kExperts = kWarpsAlongExperts * kN * 8;
  static constexpr int kInputBytes = kTokens * kRowBytes, kPartBytes = kExperts * kRowBytes;
  static constexpr int kStageBytes = kInputBytes + kWeightParts * kPartBytes;
  static constexpr int kWeightVectors = kExperts * kColumns / 4 / kThreads;  // of 4 columns, a thread
  static_assert(kWeightVectors * kThreads * 4 == kExperts * kColumns, "every thread loads as much");
};

// Byte of 8 columns' chunk of a row: 8 rows of a chunk lie in different banks.
__device__ __forceinline__ int chunkAt(int row, int chunk) {
  return row * kRowBytes + (chunk ^ (row / 2 % 4)) * 16;
}

template <class Tile>
struct WeightVectors {
  Vector<float, 4> value[Tile::kWeightVectors];
};

struct Place {
  int64_t token0;
  int expert0;
};

template <class Tile>
__device__ __forceinline__ void loadInput(LogitsProblem const& p, Place const& at, int column0, char* stage) {
  auto const* const x = static_cast<typename Tile::Type const*>(p.x);
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kTokens * kColumns / 8; i += kThreads) {
    int const row = i / (kColumns / 8), chunk = i % (kColumns / 8), column = column0 + chunk * 8;
    bool const valid = at.token0 + row < p.tokens && column < p.hidden;
    copyAsync16(stage + chunkAt(row, chunk), valid ? x + (at.token0 + row) * p.hidden + column : x, valid);
  }
  copyCommit();
}

template <class Tile>
__device__ __forceinline__ void loadWeights(LogitsProblem const& p, Place const& at, int column0,
                                            WeightVectors<Tile>& vectors) {
  int const thread = static_cast<int>(threadIdx.x), column = column0 + thread % 8 * 4;
#pragma unroll
  for (int i = 0; i < Tile::kWeightVectors; ++i) {
    int const expert = at.expert0 + thread / 8 + i * (kThreads / 8);
    vectors.value[i] = {};
    if (expert < p.experts && column < p.hidden) {
      float const* const source = p.w + static_cast<int64_t>(expert) * p.hidden + column;
      vectors.value[i] = *reinterpret_cast<Vector<float, 4> const*>(source);
    }
  }
}

template <class Tile>
__device__ __forceinline__ void storeWeights(WeightVectors<Tile> const& vectors, char* stage) {
  int const thread = static_cast<int>(threadIdx.x), chunk = thread % 8 / 2, half = thread % 2 * 8;
#pragma unroll
  for (int i = 0; i < Tile::kWeightVectors; ++i) {
    int const row = thread / 8 + i * (kThreads / 8);
    uint32_t low[kWeightParts], high[kWeightParts];
    splitPair(vectors.value[i].value[0], vectors.value[i].value[1], low);
    splitPair(vectors.value[i].value[2], vectors.value[i].value[3], high);
#pragma unroll
    for (int part = 0; part < kWeightParts; ++part) {
      char* const target = stage + Tile::kInputBytes + part * Tile::kPartBytes + chunkAt(row, chunk) + half;
      *reinterpret_cast<Vector<uint32_t, 2>*>(target) = {low[part], high[part]};
    }
  }
}

// Of a register of two numbers of x.
__device__ __forceinline__ void inputParts(uint32_t pair, uint32_t (&parts)[kInputParts<__nv_bfloat16>],
                                           __nv_bfloat16 const*) {
  parts[0] = pair;
}
__device__ __forceinline__ void inputParts(uint32_t pair, uint32_t (&parts)[kInputParts<__half>],
                                           __half const*) {
  __half2_raw raw;
  raw.x = static_cast<uint16_t>(pair);
  raw.y = static_cast<uint16_t>(pair >> 16);
  float2 const both = __half22float2(__half2(raw));
  splitPair(both.x, both.y, parts);
}

template <class Tile>
struct Fragments {
  float value[Tile::kM][Tile::kN][4] = {};
};

// A stage's columns, in the order that the other kernel has.
template <class Tile>
__device__ __forceinline__ void multiplyStage(char const* stage, Fragments<Tile>& partial) {
  using T = typename Tile::Type;
  int const lane = static_cast<int>(threadIdx.x) % kWarpSize,
            warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int const row0 = warp / kWarpsAlongExperts * Tile::kM * 16,
            column0 = warp % kWarpsAlongExperts * Tile::kN * 8;
#pragma unroll
  for (int step = 0; step < kColumns / 16; ++step) {
    uint32_t a[kInputParts<T>][Tile::kM][4];
#pragma unroll
    for (int m = 0; m < Tile::kM; ++m) {
      uint32_t raw[4];
      ldmatrixX4(raw, stage + chunkAt(row0 + m * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        uint32_t parts[kInputParts<T>];
        inputParts(raw[r], parts, static_cast<T const*>(nullptr));
#pragma unroll
        for (int i = 0; i < kInputParts<T>; ++i) a[i][m][r] = parts[i];
      }
    }
#pragma unroll
    for (int j = kWeightParts - 1; j >= 0; --j) {
      char const* const part = stage + Tile::kInputBytes + j * Tile::kPartBytes;
#pragma unroll
      for (int n = 0; n < Tile::kN; n += 2) {
        uint32_t b[4];  // of two tiles; with one alone, the others' addresses repeat it
        int const row = column0 + n * 8 + lane % 8 + (Tile::kN > 1 ? lane / 16 * 8 : 0);
        ldmatrixX4(b, part + chunkAt(row, step * 2 + lane / 8 % 2));
#pragma unroll
        for (int second = 0; second < 2 && n + second < Tile::kN; ++second) {
          uint32_t const pair[2] = {b[2 * second], b[2 * second + 1]};
#pragma unroll
          for (int i = kInputParts<T> - 1; i >= 0; --i) {
#pragma unroll
            for (int m = 0; m < Tile::kM; ++m) {
              Mma<__nv_bfloat16>::run(partial.value[m][n + second], a[i][m], pair);
            }
          }
        }
      }
    }
  }
}

// Adds `from` to `to`, and clears it.
template <class Tile>
__device__ __forceinline__ void moveTo(Fragments<Tile>& to, Fragments<Tile>& from) {
#pragma unroll
  for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
    for (int n = 0; n < Tile::kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to.value[m][n][i] += from.value[m][n][i];
        from.value[m][n][i] = 0.0F;
      }
    }
  }
}

// The sums of a slice: to be stored, or added to those before it.
template <class Tile>
__device__ __forceinline__ void storeSums(LogitsProblem const& p, Place const& at, float* logits, bool add,
                                          Fragments<Tile>& sum) {
  int const lane = static_cast<int>(threadIdx.x) % kWarpSize,
            warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int64_t const row0 = at.token0 + warp / kWarpsAlongExperts * Tile::kM * 16 + lane / 4;
  int const column0 = at.expert0 + warp % kWarpsAlongExperts * Tile::kN * 8 + lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
    for (int n = 0; n < Tile::kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int64_t const token = row0 + m * 16 + i / 2 * 8;
        int const expert = column0 + n * 8 + i % 2;
        if (token < p.tokens && expert < p.experts) {
          float* const target = logits + token * p.experts + expert;
          *target = add ? *target + sum.value[m][n][i] : sum.value[m][n][i];
        }
        sum.value[m][n][i] = 0.0F;
      }
    }
  }
}

template <class Tile>
__global__ void __launch_bounds__(kThreads, 1) routerLogitsManyKernel(LogitsProblem const p) {
  R1TRT_DYNAMIC_SHARED(memory);  // two stages
  Place const at{static_cast<int64_t>(blockIdx.x) * Tile::kTokens,
                 static_cast<int>(blockIdx.y) * Tile::kExperts};
  int const stretches = ceilDiv(p.hidden, kLogitStretch), share = stretchesPerSlice(p.hidden);
  bool const one_slice = gridDim.z > 1;
  int const begin = one_slice ? static_cast<int>(blockIdx.z) * share : 0;
  int const end = one_slice && begin + share < stretches ? begin + share : stretches;
  int const stages = (end - begin) * kStagesPerStretch, first_column = begin * kLogitStretch;
  float* const logits = p.logits + blockIdx.z * p.tokens * p.experts;
  startNextGrid();

  Fragments<Tile> sum, partial;
  WeightVectors<Tile> weights;
  loadInput<Tile>(p, at, first_column, memory);
  loadWeights(p, at, first_column, weights);
  storeWeights(weights, memory);
  for (int stage = 0; stage < stages; ++stage) {
    char *const now = memory + stage % 2 * Tile::kStageBytes, *const next = memory + (stage + 1) % 2 *
                                                                                         Tile::kStageBytes;
    copyWait<0>();
    __syncthreads();  // this stage has landed for all, and nobody reads the other any more
    bool const more = stage + 1 < stages;
    if (more) {
      int const column = first_column + (stage + 1) * kColumns;
      loadInput<Tile>(p, at, column, next);
      loadWeights(p, at, column, weights);
    }
    multiplyStage(now, partial);
    if (more) storeWeights(weights, next);
    if (stage % kStagesPerStretch != kStagesPerStretch - 1) continue;
    moveTo(sum, partial);
    int const stretch = stage / kStagesPerStretch + 1;
    if (stretch % share == 0 || !more) storeSums(p, at, logits, stretch > share, sum);
  }
}

template <class Tile>
cudaError_t run(LogitsProblem const& p, cudaStream_t stream) {
  dim3 const grid(static_cast<unsigned>(ceilDiv<int64_t>(p.tokens, Tile::kTokens)),
                  static_cast<unsigned>(ceilDiv(p.experts, Tile::kExperts)),
                  static_cast<unsigned>(logitSlices(p.tokens, p.hidden)));
  return launch({"router_logits_many", grid, kThreads, 2 * Tile::kStageBytes}, stream,
                routerLogitsManyKernel<Tile>, p);
}

template <class T>
cudaError_t runTyped(LogitsProblem const& p, cudaStream_t stream) {
  using Large = ManyTile<T, kInputParts<T> == 1 ? 4 : 2, 4>;  // two parts of x would spill
  if (p.experts <= 2 * ManyTile<T, 2, 1>::kExperts) return run<ManyTile<T, 2, 1>>(p, stream);
  int64_t const tiles = ceilDiv<int64_t>(p.tokens, Large::kTokens) * ceilDiv(p.experts, Large::kExperts) *
                        logitSlices(p.tokens, p.hidden);
  return tiles >= kLeastLargeTiles ? run<Large>(p, stream) : run<ManyTile<T, 2, 4>>(p, stream);
}

}  // namespace

cudaError_t launchRouterLogitsOfMany(LogitsProblem const& p, DataType type, cudaStream_t stream) {
  return type == DataType::kBFloat16 ? runTyped<__nv_bfloat16>(p, stream) : runTyped<__half>(p, stream);
}

}  // namespace r1trt::kernels::moe
