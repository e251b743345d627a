// Which tiles of the full branch have weight, on sm_90a: the block branch's kernel, which looks at every lam,
// leaves it to the full branch's.
//
// A full tile is 128 tokens of a head, so 2^heads_log tiles of the block branch beside one another, each by
// four warps: so many bytes, 0 where no row has weight, and never fewer than 16.
#pragma once

#include "hopper_block_rows.cuh"

namespace r1trt::kernels::hla::prefill {

constexpr int kWarpsOfTile = kRows / kWarpSize;
constexpr int kLeastVoteBytes = 16;

__host__ __device__ inline int voteBytes(BlockTiles const& tiles) {
  int const bytes = kWarpsOfTile << tiles.heads_log;
  return bytes < kLeastVoteBytes ? kLeastVoteBytes : bytes;
}

inline size_t votesSize(HlaAttentionParams const& p) {
  BlockTiles const tiles = tilesOf(p, 1);
  return static_cast<size_t>(tiles.of_tokens >> tiles.heads_log) * p.batch * p.heads * voteBytes(tiles);
}

// A full tile's place among all of them, which begin with late tokens; and so its votes'.
__device__ __forceinline__ int fullTileOf(Attention const& a, BlockTiles const& tiles, BlockRows const& rows,
                                          int head) {
  int const later = (tiles.of_tokens >> tiles.heads_log) - 1 - (rows.of_tokens >> tiles.heads_log);
  return (later * a.params.batch + rows.b) * a.params.heads + head;
}

// By a whole warp that has 32 rows of a tile; `full`: the lane's row has weight.
__device__ __forceinline__ void vote(Attention const& a, BlockTiles const& tiles, BlockRows const& rows,
                                     int row, bool full) {
  unsigned const votes = __ballot_sync(kAllLanes, full ? 1 : 0);
  int const head = row % kWarpSize, heads = 1 << tiles.heads_log;
  if (head >= heads) return;
  unsigned of_head = votes >> head;
  for (int distance = heads; distance < kWarpSize; distance *= 2) of_head |= of_head >> distance;
  int const part = (rows.of_tokens & (heads - 1)) * kWarpsOfTile + row / kWarpSize;
  int64_t const tile = fullTileOf(a, tiles, rows, rows.head0 + head);
  a.votes[tile * voteBytes(tiles) + part] = of_head & 1;
}

// `first`: the first 16 bytes of a tile's, which a caller loads early.
__device__ __forceinline__ bool hasVotes(Attention const& a, BlockTiles const& tiles, int64_t tile,
                                         uint4 first) {
  uint32_t any =
      first.x | (tiles.heads_log > 0 ? first.y : 0) | (tiles.heads_log > 1 ? first.z | first.w : 0);
#pragma unroll 1
  for (int begin = kLeastVoteBytes; begin < kWarpsOfTile << tiles.heads_log; begin += kLeastVoteBytes) {
    uint8_t const* const votes = a.votes + tile * voteBytes(tiles) + begin;
    uint4 const more = *reinterpret_cast<uint4 const*>(votes);
    any |= more.x | more.y | more.z | more.w;
  }
  return any != 0;
}

}  // namespace r1trt::kernels::hla::prefill
