// The layer's kernels in order, and the workspace between them. Not part of the public header.
//
// Legend: T tokens, K top_k, R = T * K rows at most, KB = blocks of 128 along a row; groups G: the experts,
// and behind them the shared one where it is as wide (G = E + 1): its rows are the T tokens, behind the
// experts'. A rows in all: R, or R + T.
#pragma once

#include "../common/platform.cuh"
#include "dynamic_moe.h"

namespace r1trt::kernels::moe {

constexpr int kScaleBlock = 128;
constexpr int kSmallTile = 16;  // rows of a GEMM tile while experts have few tokens
constexpr int kLargeTile = 64;

__host__ __device__ constexpr int64_t scaleBlocks(int64_t columns) {
  return ceilDiv<int64_t>(columns, kScaleBlock);
}

// Where the rows of the groups lie. Rows are ordered by group, inside a group by token.
struct Routing {
  float* logits;         // [slices of the columns, T, E], to be added in that order
  int32_t* expert;       // [T, K]; -1: not kept
  float* weight;         // [T, K]
  uint16_t* count;       // [router blocks, countPitch(E)]; a block's tokens of every expert
  int32_t* offset;       // [G + 1]; first row of every group
  int32_t* tile_offset;  // [G + 1]; first tile of every group
  int32_t* tile_expert;  // [most tiles]
  int32_t* row;          // [T, K]; row of a token for its k-th expert; -1: none
};

constexpr int kLogitSlices = 4;             // at most
constexpr int kLogitStretch = 64;           // columns that tensor cores sum up before an FP32 addition
constexpr int64_t kSlicedTokens = 2048;     // up to so many, slices of the columns are blocks of their own
constexpr int64_t kTokensOfOneRouter = 16;  // that one block takes
constexpr int kMostRouterBlocks = 128;

__host__ __device__ constexpr int32_t countPitch(int32_t experts) {
  return ceilDiv(experts, 8) * 8;
}

// One block for few tokens, then blocks of 8 until there are 128 of them. Its counts have 16 bits.
constexpr int32_t tokensPerRouterBlock(int64_t tokens) {
  if (tokens <= kTokensOfOneRouter) return static_cast<int32_t>(tokens);
  int64_t const fair = ceilDiv<int64_t>(ceilDiv<int64_t>(tokens, kMostRouterBlocks), 8) * 8;
  return static_cast<int32_t>(fair < 0xFFF8 ? fair : 0xFFF8);
}

// Stretches of the columns that a slice has.
__host__ __device__ constexpr int32_t stretchesPerSlice(int32_t hidden) {
  return ceilDiv(ceilDiv(hidden, kLogitStretch), kLogitSlices);
}

// Logits as the selection finds them: in slices, or of many tokens summed up.
constexpr int32_t logitSlices(int64_t tokens, int32_t hidden) {
  return tokens > kSlicedTokens ? 1 : ceilDiv(ceilDiv(hidden, kLogitStretch), stretchesPerSlice(hidden));
}

// Rows of activations: elements of type T, or E4M3 with scales.
struct Rows {
  void* data;
  float* scale;  // [rows, KB]; null when not quantized, or by one static scale
};

struct Workspace {
  Routing routing;
  Rows permuted;         // [A, D]
  void* gate_up;         // [A, 2F] of type T; null where SwiGLU is in the product's epilogue
  Rows mid;              // [A, F]
  void* out;             // [A, D] of type T
  Rows shared_in;        // [T, D], quantized x; x itself where it is not; this and what follows: no group
  Rows shared_mid;       // [T, Fs]
  void* shared_gate_up;  // [T, 2Fs] of type T; null where SwiGLU is in the product's epilogue
  void* shared_out;      // [T, D] of type T
  size_t size;
};

// Everything that follows from the sizes, resolved once.
struct Layer {
  DynamicMoeParams params;
  int sm;
  int64_t tokens;        // T
  int64_t rows;          // R
  bool grouped;          // the shared expert is a group
  bool quantized;        // activations are E4M3
  bool separate;         // SwiGLU is a kernel of its own
  bool shared_separate;  // that of a shared expert that is no group
  int tile_rows;         // kSmallTile or kLargeTile
  int64_t most_tiles;
  Workspace workspace;

  int32_t groups() const { return params.experts + (grouped ? 1 : 0); }
  int64_t allRows() const { return rows + (grouped ? tokens : 0); }
  bool sharedAlone() const { return params.shared_width > 0 && !grouped; }
};

Layer layerFromParams(DynamicMoeParams const& params, int sm);

cudaError_t launchRouter(Layer const& layer, cudaStream_t stream);
// x, quantized if need be, to its groups' rows; and to `shared_in`.
cudaError_t launchPermute(Layer const& layer, cudaStream_t stream);
// silu(gate) * up, quantized if need be, of the groups' rows, or of the shared expert that is none: `gate_up`
// to `mid`.
cudaError_t launchSwiGlu(Layer const& layer, bool shared, cudaStream_t stream);
cudaError_t launchCombine(Layer const& layer, cudaStream_t stream);

// Where an expert's weights lie.
struct ExpertPlace {
  int part;
  int index;  // in the part
};

__host__ __device__ constexpr ExpertPlace placeOfExpert(int expert, int experts, int parts) {
  int const small = experts / parts, larger = experts % parts;  // the first ones have one more
  int const boundary = larger * (small + 1);
  if (expert < boundary) return {expert / (small + 1), expert % (small + 1)};
  return {larger + (expert - boundary) / small, (expert - boundary) % small};
}

// Where a group's weights lie: the shared expert's are a part of their own behind the others.
__host__ __device__ constexpr ExpertPlace placeOfGroup(int group, int experts, int parts) {
  return group < experts ? placeOfExpert(group, experts, parts) : ExpertPlace{parts, 0};
}

// One grouped GEMM: out[rows, N] = epilogue(a[rows, K] weight[g]^T), g by row. With `gated`, weight has 2 N
// rows and the epilogue is silu(gate) * up.
struct GroupedGemm {
  DataType data_type;    // T
  DataType weight_type;  // T or E4M3
  bool quantized;        // a is E4M3
  bool gated;
  ScaleLayout scale_layout;  // of an E4M3 weight
  int tile_rows;
  int64_t most_tiles;

  Rows a;
  float const* a_scale;                   // static scale of a, or null
  MoeWeight weight[kMaxExpertParts + 1];  // of the experts, in parts, then of the group behind them
  int32_t parts;                          // of the experts
  void* out;                              // of type T, or E4M3 where out_quantized
  bool out_quantized;
  float* out_row_scale;    // [rows, scaleBlocks(N)]; null with a static scale
  float const* out_scale;  // static scale of out, or null

  int32_t n;              // N
  int32_t k;              // K
  int64_t rows;           // all rows of one weight, that of part 0, where offset is null
  int32_t const* offset;  // [groups + 1]
  int32_t const* tile_offset;
  int32_t const* tile_expert;
  int32_t experts, groups;
};

// The kernel by architecture and rows per expert. NOTES: mma.sync tiles serve every architecture; wgmma and
// TMA take the larger products of sm_90. A tcgen05 kernel for sm_100 belongs here, too.
cudaError_t launchGroupedGemm(GroupedGemm const& gemm, int sm, cudaStream_t stream);

// The mma.sync kernels by what they multiply; each in its own source, to be compiled side by side.
cudaError_t launchGemm16Bit(GroupedGemm const& gemm, cudaStream_t stream);
cudaError_t launchGemmFp8(GroupedGemm const& gemm, cudaStream_t stream);
cudaError_t launchGemmWidened(GroupedGemm const& gemm, cudaStream_t stream);

}  // namespace r1trt::kernels::moe
