// The full branch of prefill for sm_90a, after FlashAttention 3 (Shah et al. 2024): softmax(q k^T) v of one
// query head, causal, 128 tokens a tile. The last kernel of a call: it clears what is padding in y, too.
//
// As many thread blocks as multiprocessors, each with one tile after the other of those that have weight.
// One warp loads queries, then keys and values by TMA into up to three stages; two warpgroups have 64 rows
// each. The scores of the next keys are multiplied while this one's values are, and softmax runs beside both;
// by turns, so that one warpgroup's softmax runs under the other's products.
//
// FLOPs: 2 (dqk + dv) S^2 / 2 a head; bytes: keys and values once from HBM, for the heads of a group and the
// blocks in flight share them in L2. Bound by wgmma: 60 to 75 % of 989 TFLOP/s on an H100.
#include "hopper_prefill.h"

#ifndef R1TRT_HOPPER_KERNELS

namespace r1trt::kernels::hla {

bool hopperBuilt() {
  return false;
}

namespace prefill {

cudaError_t launchHopperAttention(Attention const& /*attention*/, cudaStream_t /*stream*/) {
  return cudaErrorNotSupported;
}

}  // namespace prefill
}  // namespace r1trt::kernels::hla

#else

#include "hopper_full.cuh"
#include "hopper_launch.cuh"

namespace r1trt::kernels::hla {

bool hopperBuilt() {
  return true;
}

namespace prefill {
namespace {

template <class Tile>
__global__ void __launch_bounds__(kThreads, 1) hopperAttention(__grid_constant__ const FullCall call) {
#ifdef R1TRT_HOPPER_DEVICE
  R1TRT_HOPPER_SHARED(FullShared<Tile>, memory);
  Shared<Tile>& shared = memory.tile;
  if (threadIdx.x == 0) initBarriers(shared);
  waitForLastGrid();
  listTiles(call.a, call.tiles, static_cast<int>(blockIdx.x), memory.list);
  clearPadding<Tile>(call);
  __syncthreads();
  Position<Tile> at;
  if (threadIdx.x < kWarpgroup) {
    giveRegisters<kProducerRegisters>();
    if (threadIdx.x != 0) return;
    forTiles(call, memory.list, [&](FullRows const& rows) { produceTile(call, rows, shared, at); });
  } else {
    takeRegisters<kConsumerRegisters>();
    Lane const lane = laneOf();
    beginTurns(lane.warpgroup);
    forTiles(call, memory.list, [&](FullRows const& rows) { consumeTile(call, rows, lane, shared, at); });
  }
#endif
}

template <class T, int kQk, int kV>
struct Launch {
  static cudaError_t run(Attention const& a, cudaStream_t stream) {
    using Tile = TileOf<T, kQk, kV, 1, kQk == 192 ? 2 : 3>;
    FullCall call{};
    call.a = a;
    call.tiles = fullTilesOf(a.params, a.num_sms);
    cudaError_t const error =
        encodeMatrices<Tile>(a, kKeys, kGroupColumns, call.queries, call.keys, call.values);
    if (error != cudaSuccess) return error;
    auto const blocks = static_cast<unsigned>(call.tiles.schedule.blocks.divisor);
    return launch({"hopper_attention", blocks, kThreads, sizeof(FullShared<Tile>), true}, stream,
                  hopperAttention<Tile>, call);
  }
};

}  // namespace

cudaError_t launchHopperAttention(Attention const& a, cudaStream_t stream) {
  return launchByType<Launch>(a, stream);
}

}  // namespace prefill
}  // namespace r1trt::kernels::hla

#endif
