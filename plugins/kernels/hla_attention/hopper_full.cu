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

namespace r1trt::kernels::hla::prefill {

cudaError_t launchHopperAttention(Attention const& /*attention*/, cudaStream_t /*stream*/) {
  return cudaErrorNotSupported;
}

}  // namespace r1trt::kernels::hla::prefill

#else

#include "hopper_full.cuh"

namespace r1trt::kernels::hla::prefill {
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

// A matrix of heads' rows: `heads` beside one another in a row, or each with rows of its own.
cudaError_t encodeRows(void const* data, CUtensorMapDataType type, int64_t rows, int64_t columns,
                       CUtensorMap& map) {
  return encodeTensorMap({data, type, 2, rows, columns, kKeys, kGroupColumns}, map);
}

template <class Tile>
cudaError_t launchTile(Attention const& a, CUtensorMapDataType type, cudaStream_t stream) {
  HlaAttentionParams const& p = a.params;
  bool const cached = p.key_cache != nullptr;
  FullCall call{};
  call.a = a;
  call.tiles = fullTilesOf(p, a.num_sms);
  int64_t const fresh = static_cast<int64_t>(p.batch) * p.seq;
  int64_t const rows = cached ? p.batch * p.kv_heads * a.slots : fresh;
  int64_t const beside = cached ? 1 : p.kv_heads;
  cudaError_t error = encodeRows(p.q, type, fresh, static_cast<int64_t>(p.heads) * Tile::kQk, call.queries);
  if (error == cudaSuccess) error = encodeRows(a.keys.data, type, rows, beside * Tile::kQk, call.keys);
  if (error == cudaSuccess) error = encodeRows(a.values.data, type, rows, beside * Tile::kV, call.values);
  if (error != cudaSuccess) return error;
  auto const blocks = static_cast<unsigned>(call.tiles.schedule.blocks.divisor);
  return launch({"hopper_attention", blocks, kThreads, sizeof(FullShared<Tile>), true}, stream,
                hopperAttention<Tile>, call);
}

template <class T>
cudaError_t launchType(Attention const& a, CUtensorMapDataType type, cudaStream_t stream) {
  HlaAttentionParams const& p = a.params;
  if (p.qk_head_dim == 64) return launchTile<TileOf<T, 64, 64, 1, 3>>(a, type, stream);
  if (p.qk_head_dim == 128) return launchTile<TileOf<T, 128, 128, 1, 3>>(a, type, stream);
  return launchTile<TileOf<T, 192, 128, 1, 2>>(a, type, stream);
}

}  // namespace

cudaError_t launchHopperAttention(Attention const& a, cudaStream_t stream) {
  if (a.params.data_type == DataType::kBFloat16) {
    return launchType<__nv_bfloat16>(a, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, stream);
  }
  return launchType<__half>(a, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, stream);
}

}  // namespace r1trt::kernels::hla::prefill

#endif
