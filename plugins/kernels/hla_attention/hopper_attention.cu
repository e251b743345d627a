// The full branch of prefill for sm_90a, after FlashAttention 3 (Shah et al. 2024): softmax(q k^T) v of one
// query head, causal, 128 tokens a block.
//
// One warp loads queries, then keys and values by TMA into two stages; two warpgroups have 64 rows each. The
// scores of the next keys are multiplied while this one's values are, and softmax runs beside both.
//
// FLOPs: 2 (dqk + dv) S^2 / 2 a head; bytes: keys and values once from HBM, for the heads of a group and the
// blocks in flight share them in L2. Bound by wgmma: 60 to 75 % of 989 TFLOP/s on an H100.
#include "hopper_attention.h"

#ifndef R1TRT_HOPPER_KERNELS

namespace r1trt::kernels::hla {

bool hopperBuilt() {
  return false;
}

cudaError_t launchHopperAttention(Attention const& /*attention*/, cudaStream_t /*stream*/) {
  return cudaErrorNotSupported;
}

}  // namespace r1trt::kernels::hla

#else

#include "hopper_launch.cuh"
#include "hopper_tile.cuh"

namespace r1trt::kernels::hla {
namespace {

template <class Tile>
__global__ void __launch_bounds__(kThreads, 1) hopperAttention(__grid_constant__ const Call call) {
#ifdef R1TRT_HOPPER_DEVICE
  R1TRT_DYNAMIC_SHARED(memory);
  uintptr_t const address = reinterpret_cast<uintptr_t>(memory);
  auto& shared =
      *reinterpret_cast<Shared<Tile>*>((address + kTileAlignment - 1) / kTileAlignment * kTileAlignment);
  Work const work = findWork<Tile>(call);
  bool needed = false;
  if (threadIdx.x < kRows) {
    int const token = work.token0 + static_cast<int>(threadIdx.x);
    needed = token < work.tokens && lamOf(call.a.params, work.b, token, work.head) > 0.0F;
  }
  if (threadIdx.x == 0) {
    initBarrier(&shared.queries, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      initBarrier(&shared.keys_full[stage], 1);
      initBarrier(&shared.values_full[stage], 1);
      initBarrier(&shared.keys_empty[stage], kConsumerWarps);
      initBarrier(&shared.values_empty[stage], kConsumerWarps);
    }
    fenceBarrierInit();
  }
  if (__syncthreads_or(needed ? 1 : 0) == 0) return;
  if (threadIdx.x < kWarpgroup) {
    giveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) produce<Tile>(call, work, shared);
  } else {
    takeRegisters<kConsumerRegisters>();
    consume<Tile>(call, work, shared);
  }
#endif
}

template <class T, int kQk, int kV>
struct Launch {
  static cudaError_t run(Attention const& a, cudaStream_t stream) {
    using Tile = TileOf<T, kQk, kV>;
    HlaAttentionParams const& p = a.params;
    Call call{};
    call.a = a;
    cudaError_t const error =
        encodeMatrices<Tile>(a, kKeys, kGroupColumns, call.queries, call.keys, call.values);
    if (error != cudaSuccess) return error;
    constexpr size_t kSharedBytes = sizeof(Shared<Tile>) + kTileAlignment;
    dim3 const grid(static_cast<unsigned>(p.heads), static_cast<unsigned>(ceilDiv(p.seq, kRows)),
                    static_cast<unsigned>(p.batch));
    return launch({"hopper_attention", grid, kThreads, kSharedBytes}, stream, hopperAttention<Tile>, call);
  }
};

}  // namespace

bool hopperBuilt() {
  return true;
}

cudaError_t launchHopperAttention(Attention const& a, cudaStream_t stream) {
  return launchByType<Launch>(a, stream);
}

}  // namespace r1trt::kernels::hla

#endif
