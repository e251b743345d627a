// The block branch of prefill for sm_90a: y = (1 - lam) softmax(q k^T) v over first tokens of blocks and a
// token's own block, where lam is below 1.
//
// As many thread blocks as multiprocessors, each with one tile of 128 rows after the other: while a tile is
// computed and stored, the next one's queries and keys are loaded. First tokens are read where they are, by
// tensor maps whose rows are whole blocks of tokens apart.
//
// FLOPs: 2 (dqk + dv) a row and key of its tile's list, filled up to 128. Bytes: queries and y once; keys and
// values in tiles from L2. At 2,048 tokens bound by the bytes, at 32,768 by wgmma.
#include "hopper_prefill.h"

#ifndef R1TRT_HOPPER_KERNELS

namespace r1trt::kernels::hla::prefill {

size_t hopperWorkspaceSize(HlaAttentionParams const& /*params*/) {
  return 0;
}

cudaError_t launchHopperBlock(Attention const& /*attention*/, cudaStream_t /*stream*/) {
  return cudaErrorNotSupported;
}

}  // namespace r1trt::kernels::hla::prefill

#else

#include "hopper_block.cuh"

namespace r1trt::kernels::hla::prefill {
namespace {

template <class Tile>
__global__ void __launch_bounds__(kThreads, 1) hopperBlock(__grid_constant__ const BlockCall call) {
#ifdef R1TRT_HOPPER_DEVICE
  R1TRT_HOPPER_SHARED(BlockShared<Tile>, memory);
  Shared<Tile>& shared = memory.tile;
  uint32_t (&needed)[kRoundWords] = memory.needed;
  startNextGrid();  // all blocks are there at once: the full branch's take their places as they end
  if (threadIdx.x == 0) initBarriers(shared);
  listRounds(call.a, call.tiles, static_cast<int>(blockIdx.x), needed);
  __syncthreads();
  Position<Tile> at;
  if (threadIdx.x < kWarpgroup) {
    giveRegisters<kBlockProducerRegisters>();
    if (threadIdx.x != 0) return;
    forRounds(call, needed, [&](BlockRows const& rows, BlockKeys const& keys) {
      produceTile(call, rows, keys, shared, at);
    });
  } else {
    takeRegisters<kBlockConsumerRegisters>();
    Lane const lane = laneOf();
    forRounds(call, needed, [&](BlockRows const& rows, BlockKeys const& keys) {
      consumeTile(call, rows, keys, lane, shared, at);
    });
  }
#endif
}

// Keys or values of a step of `every` tokens.
cudaError_t encodeKeys(Attention const& a, void const* data, CUtensorMapDataType type, int size, int every,
                       CUtensorMap& map) {
  HlaAttentionParams const& p = a.params;
  bool const cached = p.key_cache != nullptr;
  int64_t const columns = cached ? size : static_cast<int64_t>(p.kv_heads) * size;
  int64_t const matrices = cached ? static_cast<int64_t>(p.batch) * p.kv_heads : p.batch;
  int64_t const step = every < a.slots ? every : a.slots, pitch = columns * 2;
  StackMap stack{data,
                 type,
                 {columns, ceilDiv(a.slots, step), matrices},
                 {step * pitch, a.slots * pitch},
                 {kGroupColumns, kBoxKeys, 1}};
  return encodeStackMap(stack, map);
}

cudaError_t encodeQueries(Attention const& a, BlockTiles const& tiles, CUtensorMapDataType type,
                          CUtensorMap& map) {
  HlaAttentionParams const& p = a.params;
  int64_t const row = p.qk_head_dim * 2;
  StackMap stack{p.q,
                 type,
                 {p.qk_head_dim, p.heads, static_cast<int64_t>(p.batch) * p.seq},
                 {row, p.heads * row},
                 {kGroupColumns, 1 << tiles.heads_log, tiles.tokens()}};
  return encodeStackMap(stack, map);
}

template <class Tile>
cudaError_t launchTile(Attention const& a, CUtensorMapDataType type, cudaStream_t stream) {
  HlaAttentionParams const& p = a.params;
  BlockCall call{};
  call.a = a;
  call.tiles = tilesOf(p, a.num_sms);
  cudaError_t error = encodeQueries(a, call.tiles, type, call.queries);
  auto encode = [&](Source const& source, int size, int every, CUtensorMap& map) {
    if (error == cudaSuccess) error = encodeKeys(a, source.data, type, size, every, map);
  };
  encode(a.keys, Tile::kQk, p.block_size, call.first_keys);
  encode(a.keys, Tile::kQk, 1, call.own_keys);
  encode(a.values, Tile::kV, p.block_size, call.first_values);
  encode(a.values, Tile::kV, 1, call.own_values);
  if (error != cudaSuccess) return error;
  return launch({"hopper_block", static_cast<unsigned>(call.tiles.schedule.blocks.divisor), kThreads,
                 sizeof(BlockShared<Tile>)},
                stream, hopperBlock<Tile>, call);
}

template <class T>
cudaError_t launchType(Attention const& a, CUtensorMapDataType type, cudaStream_t stream) {
  HlaAttentionParams const& p = a.params;
  if (p.qk_head_dim == 64) return launchTile<TileOf<T, 64, 64, 2, 2>>(a, type, stream);
  if (p.qk_head_dim == 128) return launchTile<TileOf<T, 128, 128, 2, 2>>(a, type, stream);
  return launchTile<TileOf<T, 192, 128, 1, 2>>(a, type, stream);
}

}  // namespace

size_t hopperWorkspaceSize(HlaAttentionParams const& params) {
  return params.seq < kHopperLeastTokens ? 0 : alignUp(votesSize(params));
}

cudaError_t launchHopperBlock(Attention const& a, cudaStream_t stream) {
  if (a.params.data_type == DataType::kBFloat16) {
    return launchType<__nv_bfloat16>(a, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, stream);
  }
  return launchType<__half>(a, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, stream);
}

}  // namespace r1trt::kernels::hla::prefill

#endif
