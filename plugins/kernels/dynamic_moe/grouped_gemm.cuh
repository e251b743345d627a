// Grouped GEMM by mma.sync: one tile of one expert's rows a block, operands through two shared-memory stages
// filled by cp.async. Which expert a tile belongs to is read from device memory, so the host never waits for
// the routing.
//
// Tile: kRows x kColumns elements of the output. A gated tile computes gate and up side by side: its weights
// are kColumns rows of the gate and the same of the up projection.
//
// FLOPs: 2 rows N K, twice that for a gated one. Bytes: the weights of every group that has rows, from memory
// once and from L2 once for each tile of its rows; rows once for each tile of columns. Few rows a group: the
// weights' bytes are the bound, else the tensor cores.
#pragma once

#include "../common/mma.cuh"
#include "../common/numeric.cuh"
#include "load_rows.cuh"
#include "quantize.cuh"
#include "stages.cuh"

namespace r1trt::kernels::moe {

constexpr int kColumns = 128;
constexpr int kStages = 2;

// What is multiplied: T by T; E4M3 by E4M3; T by E4M3 weights that are widened on their way to the registers.
template <class T_, class A_, class B_>
struct Operands {
  using T = T_;
  using A = A_;
  using B = B_;
  static constexpr bool kWidened = sizeof(A) != sizeof(B);
  static constexpr int kParts = kWidened ? 2 : 1;  // of a step, 16 columns each where widened
  static constexpr bool kScaled = sizeof(B) == 1;  // sums are promoted and scaled every 128 columns
  static constexpr int kDepth = kScaled ? kScaleBlock : 64;
  using Multiply = Mma<A>;
};

template <class Operands, int kRows, bool kGated>
struct Tile {
  using A = typename Operands::A;
  using B = typename Operands::B;
  static constexpr int kHalves = kGated ? 2 : 1;
  static constexpr int kWeightRows = kHalves * kColumns;
  static constexpr int kWarpRows = kRows < 32 ? 16 : 32;
  static constexpr int kWarpsDown = kRows / kWarpRows;
  static constexpr int kWarpsAcross = 4;  // along the columns
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * kWarpSize;
  static constexpr int kMTiles = kWarpRows / 16;
  static constexpr int kNTiles = kColumns / kWarpsAcross / 8;  // of each half
  static constexpr int kDepth = Operands::kDepth;
  static constexpr int kStageBytes =
      kDepth * (kRows * static_cast<int>(sizeof(A)) + kWeightRows * static_cast<int>(sizeof(B)));
  static constexpr int kOutPitch = kColumns + 4;  // FP32 elements of a row on the way out
  static constexpr int kPipelineBytes = kStages * kStageBytes;
  static constexpr int kOutBytes = kRows * kOutPitch * 4;
  static constexpr int kSharedBytes = kPipelineBytes > kOutBytes ? kPipelineBytes : kOutBytes;
  static_assert(kSharedBytes <= 99 << 10, "sm_86, sm_89 and sm_120 have 99 KiB a block");
  static_assert(kDepth * sizeof(B) % 128 == 0, "a row of weights is whole 128-byte swizzles");
};

// What of the problem one block works on.
struct TileWork {
  int64_t row0;      // first row
  int rows;          // useful rows, at most kRows
  MoeWeight weight;  // of the expert's part
  int expert;        // in the part
  int column0;
};

template <int kRows>
__device__ __forceinline__ bool findWork(GroupedGemm const& g, TileWork& work) {
  int const tiles_across = ceilDiv(g.n, kColumns);
  int const tile = static_cast<int>(blockIdx.x) / tiles_across;
  work.column0 = static_cast<int>(blockIdx.x) % tiles_across * kColumns;
  ExpertPlace place{0, 0};
  int64_t end = g.rows;
  work.row0 = static_cast<int64_t>(tile) * kRows;
  if (g.offset != nullptr) {
    if (tile >= g.tile_offset[g.groups]) return false;  // the grid is for the worst routing
    int const group = g.tile_expert[tile];
    place = placeOfGroup(group, g.experts, g.parts);
    work.row0 = g.offset[group] + static_cast<int64_t>(tile - g.tile_offset[group]) * kRows;
    end = g.offset[group + 1];
  }
  work.weight = g.weight[place.part];
  work.expert = place.index;
  work.rows = end - work.row0 < kRows ? static_cast<int>(end - work.row0) : kRows;
  return true;
}

template <class Operands, class Tile, bool kGated, int kRows>
__device__ __forceinline__ void loadStage(GroupedGemm const& g, TileWork const& work, char* stage, int k0) {
  using A = typename Operands::A;
  using B = typename Operands::B;
  auto const* const a = static_cast<A const*>(g.a.data) + work.row0 * g.k;
  loadRows<A, kRows, Tile::kDepth, Tile::kThreads>(stage, {a, g.k, work.rows}, k0);
  int64_t const half = static_cast<int64_t>(g.n) * g.k;
  auto const* b = static_cast<B const*>(work.weight.data) + work.expert * Tile::kHalves * half +
                  static_cast<int64_t>(work.column0) * g.k;
  char* weights = stage + kRows * Tile::kDepth * static_cast<int>(sizeof(A));
  constexpr int kHalfBytes = kColumns * Tile::kDepth * static_cast<int>(sizeof(B));
#pragma unroll
  for (int i = 0; i < Tile::kHalves; ++i, b += half, weights += kHalfBytes) {
    loadRows<B, kColumns, Tile::kDepth, Tile::kThreads>(weights, {b, g.k, g.n - work.column0}, k0);
  }
}

// Two neighbouring E4M3 elements as T.
template <class T>
__device__ __forceinline__ uint32_t widenPair(uint32_t bytes) {
  __half2_raw const raw = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(bytes), __NV_E4M3);
  if constexpr (sizeof(T) == 2 && Mma<T>::kK == 16) {
    __half_raw low, high;
    low.x = raw.x;
    high.x = raw.y;
    return packPair<T>(__half2float(__half(low)), __half2float(__half(high)));
  }
}

// A's fragments of one step, which is 32 bytes of each row of weights. With widened weights it is 32 columns
// deep, two parts of 16, and k is taken in another order in both operands: lane t of four holds the columns
// 4t..4t+3 of each part.
template <class Operands, class Tile>
__device__ __forceinline__ void loadFragments(char const* stage, int warp_row, int lane, int step,
                                              uint32_t (&a)[Operands::kParts][Tile::kMTiles][4]) {
  constexpr int kRowBytes = Tile::kDepth * static_cast<int>(sizeof(typename Operands::A));
#pragma unroll
  for (int m = 0; m < Tile::kMTiles; ++m) {
    if constexpr (Operands::kWidened) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          int const row = warp_row + m * 16 + r * 8 + lane / 4, chunk = step * 4 + part * 2 + lane % 4 / 2;
          auto const pair =
              *reinterpret_cast<uint2 const*>(stage + swizzled<kRowBytes>(row, chunk) + lane % 2 * 8);
          a[part][m][r] = pair.x;
          a[part][m][r + 2] = pair.y;
        }
      }
    } else {
      int const row = warp_row + m * 16 + lane % 16;
      ldmatrixX4(a[0][m], stage + swizzled<kRowBytes>(row, step * 2 + lane / 16));
    }
  }
}

// d += a * b, 16 rows by 8 columns of one step; `low` and `high` are b's halves, or with widened weights its
// two parts.
template <class Operands, class Tile>
__device__ __forceinline__ void multiplyFragments(uint32_t const (&a)[Operands::kParts][Tile::kMTiles][4],
                                                  int m, uint32_t low, uint32_t high, float (&d)[4]) {
  uint32_t const b[2] = {low, high};
  if constexpr (Operands::kWidened) {
    using A = typename Operands::A;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      uint32_t const pair[2] = {widenPair<A>(b[part] & 0xFFFFU), widenPair<A>(b[part] >> 16)};
      Operands::Multiply::run(d, a[part][m], pair);
    }
  } else {
    Operands::Multiply::run(d, a[0][m], b);
  }
}

// sum += a * b over one stage.
template <class Operands, class Tile, int kRows, int kHalves>
__device__ __forceinline__ void multiplyStage(char const* stage, int warp_row, int warp_column, int lane,
                                              int first_half,
                                              float (&sum)[Tile::kMTiles][kHalves][Tile::kNTiles][4]) {
  constexpr int kABytes = Tile::kDepth * static_cast<int>(sizeof(typename Operands::A));
  constexpr int kBBytes = Tile::kDepth * static_cast<int>(sizeof(typename Operands::B));
  constexpr int kSteps = kBBytes / 32;
  // Sums of both halves, or widened weights beside them: more steps at once would not fit the registers.
  constexpr bool kCrowded = Operands::kScaled && Tile::kHalves == 2 && (kRows > 32 || Operands::kWidened);
  constexpr int kUnrolled = kCrowded ? 1 : kSteps;
  char const* const weights = stage + kRows * kABytes;
#pragma unroll kUnrolled
  for (int step = 0; step < kSteps; ++step) {
    uint32_t a[Operands::kParts][Tile::kMTiles][4];
    loadFragments<Operands, Tile>(stage, warp_row, lane, step, a);
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
#pragma unroll
      for (int n = 0; n < Tile::kNTiles; n += 2) {  // two tiles of 8 columns a load
        int const row = (first_half + half) * kColumns + warp_column + n * 8 + lane % 8 + lane / 16 * 8;
        uint32_t b[4];
        ldmatrixX4(b, weights + swizzled<kBBytes>(row, step * 2 + lane / 8 % 2));
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
          for (int m = 0; m < Tile::kMTiles; ++m) {
            multiplyFragments<Operands, Tile>(a, m, b[2 * j], b[2 * j + 1], sum[m][half][n + j]);
          }
        }
      }
    }
  }
}

// Scale of the weights of a tile's half in one block of 128 columns of k; 1 where the epilogue scales.
__device__ __forceinline__ float weightBlockScale(GroupedGemm const& g, TileWork const& work, int half,
                                                  int halves, int k_block) {
  if (g.scale_layout != ScaleLayout::kBlock128) return 1.0F;
  int64_t const across = scaleBlocks(g.k), down = scaleBlocks(static_cast<int64_t>(halves) * g.n);
  int64_t const row = (static_cast<int64_t>(half) * g.n + work.column0) / kScaleBlock;
  return work.weight.scale[(work.expert * down + row) * across + k_block];
}

// total += partial of one half, times the scales of this block of k.
template <class Tile>
__device__ __forceinline__ void promote(GroupedGemm const& g, TileWork const& work, int warp_row, int lane,
                                        int k_block, int half,
                                        float const (&partial)[Tile::kMTiles][1][Tile::kNTiles][4],
                                        float (&total)[Tile::kMTiles][Tile::kHalves][Tile::kNTiles][4]) {
  float const scale = weightBlockScale(g, work, half, Tile::kHalves, k_block);
#pragma unroll
  for (int m = 0; m < Tile::kMTiles; ++m) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      int const row = warp_row + m * 16 + r * 8 + lane / 4;
      float row_scale = scale;
      if (g.a.scale != nullptr && row < work.rows) {
        row_scale *= g.a.scale[(work.row0 + row) * scaleBlocks(g.k) + k_block];
      }
#pragma unroll
      for (int n = 0; n < Tile::kNTiles; ++n) {
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; ++i) total[m][half][n][i] += partial[m][0][n][i] * row_scale;
      }
    }
  }
}

// What is constant along k: the static scale of a, and the scale of a weight's row.
template <class Operands>
__device__ __forceinline__ float columnScale(GroupedGemm const& g, TileWork const& work, int half, int halves,
                                             int column) {
  if constexpr (!Operands::kScaled) return 1.0F;
  float const a = g.a_scale != nullptr && !Operands::kWidened ? *g.a_scale : 1.0F;
  if (g.scale_layout == ScaleLayout::kPerTensor) return a * work.weight.scale[work.expert];
  if (g.scale_layout == ScaleLayout::kBlock128 || column >= g.n) return a;
  return a * work.weight.scale[(static_cast<int64_t>(work.expert) * halves + half) * g.n + column];
}

// Scales, applies SwiGLU, and lays the tile out in shared memory as FP32.
template <class Operands, class Tile>
__device__ __forceinline__ void stageOutput(
    GroupedGemm const& g, TileWork const& work, int warp_row, int warp_column, int lane,
    float const (&sum)[Tile::kMTiles][Tile::kHalves][Tile::kNTiles][4], float* out) {
#pragma unroll
  for (int n = 0; n < Tile::kNTiles; ++n) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int const column = warp_column + n * 8 + lane % 4 * 2 + j;
      float scale[Tile::kHalves];
#pragma unroll
      for (int half = 0; half < Tile::kHalves; ++half) {
        scale[half] = columnScale<Operands>(g, work, half, Tile::kHalves, work.column0 + column);
      }
#pragma unroll
      for (int m = 0; m < Tile::kMTiles; ++m) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float value = sum[m][0][n][2 * r + j] * scale[0];
          if constexpr (Tile::kHalves == 2) value = silu(value) * (sum[m][1][n][2 * r + j] * scale[1]);
          out[(warp_row + m * 16 + r * 8 + lane / 4) * Tile::kOutPitch + column] = value;
        }
      }
    }
  }
}

// From shared to global memory, 16 elements a thread; quantized on the way where the next GEMM takes E4M3.
template <class T, class Tile, int kRows>
__device__ __forceinline__ void storeOutput(GroupedGemm const& g, TileWork const& work, float const* out) {
  constexpr int kChunk = kQuantizedChunk, kChunks = kColumns / kChunk;
  static_assert(kRows * kChunks % kWarpSize == 0 && Tile::kThreads % kWarpSize == 0,
                "whole warps take shuffles");
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += Tile::kThreads) {
    int const row = i / kChunks, column = work.column0 + i % kChunks * kChunk;
    bool const valid = row < work.rows && column < g.n;
    float value[kChunk];
#pragma unroll
    for (int j = 0; j < kChunk; ++j)
      value[j] = valid ? out[row * Tile::kOutPitch + i % kChunks * kChunk + j] : 0.0F;
    int64_t const target = (work.row0 + row) * g.n + column;
    if (g.out_quantized) {
      float const scale = g.out_scale != nullptr ? *g.out_scale : blockScale(value);
      if (!valid) continue;
      *reinterpret_cast<QuantizedChunk*>(static_cast<__nv_fp8_e4m3*>(g.out) + target) =
          quantizeChunk(value, scale);
      if (g.out_row_scale != nullptr && i % kChunks == 0) {
        g.out_row_scale[(work.row0 + row) * scaleBlocks(g.n) + column / kScaleBlock] = scale;
      }
    } else if (valid) {
      constexpr int kVec = kVectorSize<T>;
#pragma unroll
      for (int j = 0; j < kChunk; j += kVec) {
        Vector<T, kVec> part;
#pragma unroll
        for (int l = 0; l < kVec; ++l) part.value[l] = fromFloat<T>(value[j + l]);
        *reinterpret_cast<Vector<T, kVec>*>(static_cast<T*>(g.out) + target + j) = part;
      }
    }
  }
}

template <class Operands, int kRows, bool kGated>
__global__ void __launch_bounds__(Tile<Operands, kRows, kGated>::kThreads)
    groupedGemmKernel(GroupedGemm const g) {
  using Tile = moe::Tile<Operands, kRows, kGated>;
  R1TRT_DYNAMIC_SHARED(memory);
  TileWork work;
  if (!findWork<kRows>(g, work)) return;  // the whole block
  int const lane = static_cast<int>(threadIdx.x) % kWarpSize,
            warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int const warp_row = warp / Tile::kWarpsAcross * Tile::kWarpRows;
  int const warp_column = warp % Tile::kWarpsAcross * (kColumns / Tile::kWarpsAcross);
  float total[Tile::kMTiles][Tile::kHalves][Tile::kNTiles][4] = {};

  int const steps = ceilDiv(g.k, Tile::kDepth);
  auto load = [&](int step) {
    if (step < steps) {
      loadStage<Operands, Tile, kGated, kRows>(g, work, memory + step % kStages * Tile::kStageBytes,
                                               step * Tile::kDepth);
    }
    copyCommit();
  };
  for (int step = 0; step < kStages - 1; ++step) load(step);
  for (int step = 0; step < steps; ++step) {
    copyWait<kStages - 2>();
    __syncthreads();  // this stage has landed for all; the one before it is free
    load(step + kStages - 1);
    char const* const stage = memory + step % kStages * Tile::kStageBytes;
    if constexpr (Operands::kScaled) {
      // NOTES: one half after the other, for two sums of both would not fit the registers.
#pragma unroll
      for (int half = 0; half < Tile::kHalves; ++half) {
        float partial[Tile::kMTiles][1][Tile::kNTiles][4] = {};
        multiplyStage<Operands, Tile, kRows, 1>(stage, warp_row, warp_column, lane, half, partial);
        promote<Tile>(g, work, warp_row, lane, step, half, partial, total);
      }
    } else {
      multiplyStage<Operands, Tile, kRows, Tile::kHalves>(stage, warp_row, warp_column, lane, 0, total);
    }
  }
  copyWait<0>();
  __syncthreads();
  auto* const out = reinterpret_cast<float*>(memory);
  stageOutput<Operands, Tile>(g, work, warp_row, warp_column, lane, total, out);
  __syncthreads();
  storeOutput<typename Operands::T, Tile, kRows>(g, work, out);
}

template <class Operands, int kRows, bool kGated>
cudaError_t runGemm(GroupedGemm const& g, cudaStream_t stream) {
  using Tile = moe::Tile<Operands, kRows, kGated>;
  int64_t const blocks = g.most_tiles * ceilDiv(g.n, kColumns);
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  LaunchShape const shape{"grouped_gemm", dim3(static_cast<unsigned>(blocks)), Tile::kThreads,
                          Tile::kSharedBytes};
  return launch(shape, stream, groupedGemmKernel<Operands, kRows, kGated>, g);
}

template <class Operands>
cudaError_t dispatchGemm(GroupedGemm const& g, cudaStream_t stream) {
  if (g.tile_rows == kSmallTile) {
    return g.gated ? runGemm<Operands, kSmallTile, true>(g, stream)
                   : runGemm<Operands, kSmallTile, false>(g, stream);
  }
  return g.gated ? runGemm<Operands, kLargeTile, true>(g, stream)
                 : runGemm<Operands, kLargeTile, false>(g, stream);
}

}  // namespace r1trt::kernels::moe
