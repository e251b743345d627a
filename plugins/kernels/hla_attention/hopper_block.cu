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
#include "hopper_launch.cuh"

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

template <class T, int kQk, int kV>
struct Launch {
  static cudaError_t run(Attention const& a, cudaStream_t stream) {
    using Tile = TileOf<T, kQk, kV, kQk == 192 ? 1 : 2, 2>;
    HlaAttentionParams const& p = a.params;
    BlockCall call{};
    call.a = a;
    call.tiles = tilesOf(p, a.num_sms);
    cudaError_t error = encodeQueries(a, call.tiles, kMapType<T>, call.queries);
    auto encode = [&](Source const& source, int size, int every, CUtensorMap& map) {
      if (error == cudaSuccess) error = encodeKeys(a, source.data, kMapType<T>, size, every, map);
    };
    encode(a.keys, kQk, p.block_size, call.first_keys);
    encode(a.keys, kQk, 1, call.own_keys);
    encode(a.values, kV, p.block_size, call.first_values);
    encode(a.values, kV, 1, call.own_values);
    if (error != cudaSuccess) return error;
    return launch({"hopper_block", static_cast<unsigned>(call.tiles.schedule.blocks.divisor), kThreads,
                   sizeof(BlockShared<Tile>)},
                  stream, hopperBlock<Tile>, call);
  }
};

}  // namespace

size_t hopperWorkspaceSize(HlaAttentionParams const& params) {
  return params.seq < kHopperLeastTokens ? 0 : alignUp(votesSize(params));
}

cudaError_t launchHopperBlock(Attention const& a, cudaStream_t stream) {
  return launchByType<Launch>(a, stream);
}

}  // namespace r1trt::kernels::hla::prefill

#endif
