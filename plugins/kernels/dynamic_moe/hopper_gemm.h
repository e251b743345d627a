// Grouped products by Hopper's own instructions, for sm_90a: which ones they take. Compiled in where
// R1TRT_HOPPER_KERNELS is defined.
#pragma once

#include "stages.cuh"

namespace r1trt::kernels::moe {

constexpr int kHopperArchitecture = 90;
// Rows from which they are worth it: one for an expert, since then weights are what is read; and for a
// product of one matrix as many as make enough tiles.
constexpr int64_t leastHopperRows(int64_t experts) {
  return experts > 1 ? experts : 128;
}

// Whether products of rows in groups are theirs, with SwiGLU apart: FP8 by FP8, or 16 bits.
inline bool hopperSuits(DynamicMoeParams const& p, int sm, int64_t rows, int32_t groups, bool quantized) {
  return sm == kHopperArchitecture && rows >= leastHopperRows(groups) &&
         (quantized || p.weight_type == p.data_type);
}

// Whether they compute a product: plain columns. TMA wants rows of whole 16 bytes, which n and k always are.
inline bool hopperTakes(GroupedGemm const& g, int sm) {
  bool const plain = sm == kHopperArchitecture && !g.gated && !g.out_quantized && g.n % 16 == 0 &&
                     g.k % 16 == 0 && g.rows >= leastHopperRows(g.groups);
  return plain && (g.quantized || g.weight_type == g.data_type);
}

// Parts of the weights, that of the group behind the experts included, and matrices of one.
inline int mapsOf(GroupedGemm const& g) {
  return g.parts + g.groups - g.experts;
}
inline int64_t matricesOf(GroupedGemm const& g, int part) {
  return part < g.parts ? g.experts / g.parts + (part < g.experts % g.parts ? 1 : 0) : 1;
}

// Whether this library was compiled with them.
bool hopperBuilt();

// cudaErrorNotSupported without them.
cudaError_t launchGemmHopper(GroupedGemm const& gemm, cudaStream_t stream);

}  // namespace r1trt::kernels::moe
