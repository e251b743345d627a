// Loops that do nothing but load: what a copy of 16 bytes costs is counted in their machine code.
#include "common/mma.cuh"

#include "dynamic_moe/grouped_gemm.cuh"
#include "hla_attention/tile.cuh"

namespace r1trt::kernels::hla {

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads)
    keysProbe(Attention const a, BlockWork const* works, KeyList const* lists, int tiles) {
  R1TRT_DYNAMIC_SHARED(stages);
  // A kernel has computed them: they are in registers.
  BlockWork const work = works[blockIdx.x];
  KeyList const keys = lists[blockIdx.x];
  for (int tile = 0; tile < tiles; ++tile) {
    loadKeys<Tile>(a, work, keys, tile * Tile::kKeys, stages + tile % kStages * Tile::kStageBytes);
    copyCommit();
  }
}

#define PROBE(...)                                                                                        \
  template __global__ void keysProbe<Tile<__nv_bfloat16, __VA_ARGS__>>(Attention const, BlockWork const*, \
                                                                       KeyList const*, int);
PROBE(Heads<64, 64>, Keys<64>, Warps<4, 1, 1>)
PROBE(Heads<128, 128>, Keys<64>, Warps<4, 1, 1>)
PROBE(Heads<192, 128>, Keys<32>, Warps<4, 1, 1>)
PROBE(Latents<576, 512>, Keys<32>, Warps<4, 1, 2>)
#undef PROBE

}  // namespace r1trt::kernels::hla

namespace r1trt::kernels::moe {

template <class Operands, int kRows, bool kGated>
__global__ void stageProbe(GroupedGemm const g, TileWork const work, int tiles) {
  using T = Tile<Operands, kRows, kGated>;
  R1TRT_DYNAMIC_SHARED(stage);
  for (int tile = 0; tile < tiles; ++tile) {
    loadStage<Operands, T, kGated, kRows>(g, work, stage, tile * T::kDepth);
    copyCommit();
  }
}

using Bf16 = Operands<__nv_bfloat16, __nv_bfloat16, __nv_bfloat16>;
using Fp8 = Operands<__nv_bfloat16, __nv_fp8_e4m3, __nv_fp8_e4m3>;
using Widened = Operands<__nv_bfloat16, __nv_bfloat16, __nv_fp8_e4m3>;
template __global__ void stageProbe<Bf16, 64, true>(GroupedGemm const, TileWork const, int);
template __global__ void stageProbe<Bf16, 16, false>(GroupedGemm const, TileWork const, int);
template __global__ void stageProbe<Fp8, 64, true>(GroupedGemm const, TileWork const, int);
template __global__ void stageProbe<Widened, 64, false>(GroupedGemm const, TileWork const, int);

}  // namespace r1trt::kernels::moe
