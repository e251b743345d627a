// The latent form for sm_90a, in the manner of FlashMLA: softmax(q k^T) v, v being the first 512 of a key's
// 576 elements, of 64 rows (heads of a token, then of the next) a block.
//
// One warp loads the queries, then keys by TMA into two stages; two warpgroups multiply (their turns are in
// hopper_latent_tile.cuh). A stage goes back in three parts, each as soon as its products are done.
//
// FLOPs: 2 (576 + 512) a row and key; bytes: the keys once from HBM for the blocks of a token's heads, which
// run beside one another and share them in L2. 128 heads: 242 FLOPs a byte, so that on an H200 the products
// (989 TFLOP/s) and the bytes (4.8 TB/s) take about as long; with fewer heads the bytes are the bound. A
// tile's products take 2,176 cycles; shared memory moves 296 KiB for it in 2,368: 92 % at most, of which the
// turns of the warpgroups, the loads behind them and L2 are expected to leave 55 to 70 %.
#include "hopper_latent.h"

#ifndef R1TRT_HOPPER_KERNELS

namespace r1trt::kernels::hla {

cudaError_t launchHopperLatent(Attention const& /*attention*/, cudaStream_t /*stream*/) {
  return cudaErrorNotSupported;
}

}  // namespace r1trt::kernels::hla

#else

#include "hopper_latent_tile.cuh"
#include "hopper_launch.cuh"

namespace r1trt::kernels::hla {
namespace {

template <class T>
__global__ void __launch_bounds__(latent::kThreads, 1)
    hopperLatent(__grid_constant__ const latent::Call call) {
#ifdef R1TRT_HOPPER_DEVICE
  using namespace latent;
  R1TRT_DYNAMIC_SHARED(memory);
  // Without a detour over integers, from which the compiler no longer sees that it is shared memory.
  auto& shared = *reinterpret_cast<Shared*>(memory + (-sharedAddress(memory) & (kTileAlignment - 1)));
  Work const work = findWork(call.a);
  startNextGrid();
  if (threadIdx.x == 0) {
    shared.work = work;
    prefetchMap(&call.keys);
    initBarrier(&shared.queries, 1);
    for (Barrier& given : shared.given) initBarrier(&given, kWarpgroup);
    for (int stage = 0; stage < kStages; ++stage) {
      for (int part = 0; part < kParts; ++part) {
        initBarrier(&shared.full[stage][part], 1);
        initBarrier(&shared.empty[stage][part], kWarpgroupWarps);
      }
    }
    fenceBarrierInit();
  }
  waitForLastGrid();  // new keys are in the cache
  if (work.split == 0) clearPadding<T>(call.a, work);
  if (work.row0 >= work.rows) return;
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    giveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) produce(call, shared);
  } else {
    takeRegisters<kConsumerRegisters>();
    consume<T>(call, shared);
  }
#endif
}

template <class T>
cudaError_t launchLatent(Attention const& a, cudaStream_t stream) {
  HlaAttentionParams const& p = a.params;
  latent::Call call{};
  call.a = a;
  int64_t const queries = static_cast<int64_t>(p.seq) * p.heads;
  auto encode = [&](void const* data, int64_t rows, CUtensorMap& map) {
    return hopper::encodeTensorMap(
        {data, kMapType<T>, 2, rows, kLatentQk, latent::kRows, latent::kGroupColumns}, map);
  };
  cudaError_t error = encode(p.q, p.batch * queries, call.queries);
  if (error == cudaSuccess) error = encode(a.keys.data, p.batch * a.slots, call.keys);
  if (error != cudaSuccess) return error;
  constexpr size_t kSharedBytes = sizeof(latent::Shared) + hopper::kTileAlignment;
  static_assert(kSharedBytes <= 227 << 10, "all that a block may have");
  dim3 const grid(static_cast<unsigned>(ceilDiv<int64_t>(queries, latent::kRows)),
                  static_cast<unsigned>(a.splits), static_cast<unsigned>(p.batch));
  // NOTES: the lengths are read in front of the wait: the kernel before must be this call's own.
  bool const overlap = a.overlaps && writesCache(p);
  return launch({"hopper_latent", grid, latent::kThreads, kSharedBytes, overlap}, stream, hopperLatent<T>,
                call);
}

}  // namespace

cudaError_t launchHopperLatent(Attention const& a, cudaStream_t stream) {
  return a.params.data_type == DataType::kBFloat16 ? launchLatent<__nv_bfloat16>(a, stream)
                                                   : launchLatent<__half>(a, stream);
}

}  // namespace r1trt::kernels::hla

#endif
