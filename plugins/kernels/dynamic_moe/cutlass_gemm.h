// Grouped products of E4M3 by CUTLASS, for sm_90: which ones it takes, and what each group is. None of this
// needs CUTLASS; cutlass_gemm.cu alone includes it, and only where R1TRT_WITH_CUTLASS is defined.
#pragma once

#include "stages.cuh"

namespace r1trt::kernels::moe {

constexpr int kCutlassArchitecture = 90;
// Rows of an expert, on average, from which a tile of 128 rows is worth it.
constexpr int64_t kCutlassRows = 128;

// One group: d[m, n] = sum over blocks of 128 along k of a_scale b_scale (a[m, 128] b[n, 128]^T).
struct CutlassGroup {
  int32_t m, n, k;
  void const* a;         // [m, k]
  void const* b;         // [n, k]
  void* d;               // [m, n]
  float const* a_scale;  // [m, KB]
  float const* b_scale;  // [ceil(n / 128), KB]
};

__host__ __device__ inline CutlassGroup cutlassGroup(GroupedGemm const& g, int32_t expert) {
  int64_t const begin = g.offset != nullptr ? g.offset[expert] : 0;
  int64_t const end = g.offset != nullptr ? g.offset[expert + 1] : g.rows;
  int64_t const k_blocks = scaleBlocks(g.k);
  int64_t const matrix = static_cast<int64_t>(g.n) * g.k;
  ExpertPlace const place =
      g.offset != nullptr ? placeOfExpert(expert, g.experts, g.parts) : ExpertPlace{0, 0};
  MoeWeight const& weight = g.weight.part[place.part];
  constexpr int64_t kOutputBytes = 2;
  return {static_cast<int32_t>(end - begin),
          g.n,
          g.k,
          static_cast<char const*>(g.a.data) + begin * g.k,
          static_cast<char const*>(weight.data) + place.index * matrix,
          static_cast<char*>(g.out) + begin * g.n * kOutputBytes,
          g.a.scale + begin * k_blocks,
          weight.scale + place.index * scaleBlocks(g.n) * k_blocks};
}

// Whether a layer's routed products are worth CUTLASS: many rows, block scales on both sides.
inline bool cutlassSuits(DynamicMoeParams const& p, int sm, int64_t rows) {
  return sm == kCutlassArchitecture && p.data_type == DataType::kBFloat16 &&
         p.weight_type == DataType::kFloat8E4M3 && p.scale_layout == ScaleLayout::kBlock128 &&
         p.x_scale == nullptr && p.mid_scale == nullptr && rows >= kCutlassRows * p.experts;
}

// Whether CUTLASS computes a product. TMA wants rows of whole 16 bytes, which n and k always are.
inline bool cutlassTakes(GroupedGemm const& g, int sm) {
  int64_t const groups = g.offset != nullptr ? g.experts : 1;
  return g.cutlass != nullptr && sm == kCutlassArchitecture && g.data_type == DataType::kBFloat16 &&
         g.quantized && !g.gated && !g.out_quantized && g.scale_layout == ScaleLayout::kBlock128 &&
         g.a.scale != nullptr && g.a_scale == nullptr && g.n % 16 == 0 && g.k % 16 == 0 &&
         g.rows >= kCutlassRows * groups;
}

// Whether this library was compiled with CUTLASS; and the workspace of one of its products, else 0.
bool cutlassBuilt();
size_t cutlassWorkspaceSize();

// cudaErrorNotSupported without CUTLASS.
cudaError_t launchGemmCutlass(GroupedGemm const& gemm, cudaStream_t stream);

}  // namespace r1trt::kernels::moe
