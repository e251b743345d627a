// Rows and keys of a tile of the block branch on sm_90a. None of Hopper's instructions: tests execute it on
// the CPU.
//
// A tile's 128 rows are tokens beside one another, each with some heads of one key/value head, so that few
// keys of own blocks serve all of them. Its keys are a list, in boxes of 32: the first tokens of the blocks
// in front, then the positions from the first row's own block on. For example blocks of 32 tokens and 4 heads
// a tile: tokens 320 to 351 see 10 first tokens and their own 32 keys, so box 0 has the keys 0, 32, .. 288
// and 22 that no row sees, box 1 the keys 320 to 351; boxes 2 and 3 of their tile of 128 keys are zeros.
#pragma once

#include "hopper_schedule.cuh"

namespace r1trt::kernels::hla::prefill {

constexpr int kRows = 128, kKeys = 128;
constexpr int kBoxKeys = 32, kBoxesOfTile = kKeys / kBoxKeys;
constexpr int kMaxHeadsLog = 5;  // heads of a tile: a warp has rows of each

// All tiles of a call, those of late tokens, which see most keys, first.
struct BlockTiles {
  int32_t heads_log;  // a tile has 2^heads_log heads, and 128 rows of them
  int32_t of_tokens;  // tiles of a batch row and of heads: whole 128 tokens of them
  Schedule schedule;
  Divisor head_groups;  // of so many heads
  Divisor batch, group, block_size;
  Divisor begin;  // tiles begin at positions that are multiples of it

  __host__ __device__ int tokens() const { return kRows >> heads_log; }
};

// As many heads as leave a tile a whole block of tokens; on `num_sms` multiprocessors.
inline BlockTiles tilesOf(HlaAttentionParams const& p, int num_sms) {
  BlockTiles tiles{};
  int const group = p.heads / p.kv_heads;
  while (tiles.heads_log < kMaxHeadsLog && group % (2 << tiles.heads_log) == 0 &&
         (kRows >> (tiles.heads_log + 1)) >= p.block_size) {
    ++tiles.heads_log;
  }
  tiles.head_groups = Divisor(p.heads >> tiles.heads_log);
  tiles.batch = Divisor(p.batch);
  tiles.group = Divisor(group);
  tiles.block_size = Divisor(p.block_size);
  int const tokens = tiles.tokens();
  // Tiles begin where blocks do, in front of the first token where that is within one.
  tiles.begin = Divisor(p.block_size < tokens ? p.block_size : tokens);
  int64_t const most_tokens = int64_t{p.seq} + tiles.begin.divisor - 1;
  tiles.of_tokens = static_cast<int32_t>(ceilDiv<int64_t>(most_tokens, kRows)) << tiles.heads_log;
  tiles.schedule = scheduleOf(int64_t{tiles.of_tokens} * p.batch * tiles.head_groups.divisor, num_sms);
  return tiles;
}

struct BlockRows {
  int b, head0, kv_head;
  int of_tokens;   // place among the tiles of a batch row and of heads
  int token0;      // of the first row; may lie in front of the first token
  int begin, end;  // tokens that are there and no padding
  int past, tokens;

  __device__ __forceinline__ int token(BlockTiles const& tiles, int row) const {
    return token0 + (row >> tiles.heads_log);
  }
  __device__ __forceinline__ int head(BlockTiles const& tiles, int row) const {
    return head0 + (row & ((1 << tiles.heads_log) - 1));
  }
};

__device__ __forceinline__ BlockRows rowsOf(Attention const& a, BlockTiles const& tiles, int tile) {
  BlockRows rows;
  int const of_heads = tiles.head_groups.divide(tile), of_batch = tiles.batch.divide(of_heads);
  rows.head0 = tiles.head_groups.remainder(tile) << tiles.heads_log;
  rows.kv_head = tiles.group.divide(rows.head0);
  rows.b = tiles.batch.remainder(of_heads);
  rows.tokens = tokensOf(a.params, rows.b);
  rows.past = static_cast<int>(pastOf(a.params, rows.b));
  int const tokens = tiles.tokens();
  rows.of_tokens = tiles.of_tokens - 1 - of_batch;
  rows.token0 = rows.of_tokens * tokens - tiles.begin.remainder(rows.past);
  rows.begin = max(rows.token0, 0);
  rows.end = min(rows.token0 + tokens, rows.tokens);
  return rows;
}

__device__ __forceinline__ bool isToken(BlockRows const& rows, int token) {
  return token >= rows.begin && token < rows.end;
}

// Whether a token's block branch is computed in its tile. With first_to_first, a first token's is not: it
// alone sees those of other blocks, and is computed apart.
__device__ __forceinline__ bool isOurs(Attention const& a, BlockTiles const& tiles, BlockRows const& rows,
                                       int token) {
  bool const all_see_firsts = a.params.inter_block == InterBlock::kAllToFirst;
  return isToken(rows, token) && (all_see_firsts || tiles.block_size.remainder(rows.past + token) != 0);
}

// A tile's list of keys.
struct BlockKeys {
  int firsts;       // of blocks 0 .. firsts - 1
  int first_boxes;  // that they fill
  int begin, end;   // positions behind them
  int boxes;

  __device__ __forceinline__ int tiles() const { return max(ceilDiv(boxes, kBoxesOfTile), 1); }
  // Of a position to its place in the list.
  __device__ __forceinline__ int shift() const { return first_boxes * kBoxKeys - begin; }
};

__device__ __forceinline__ BlockKeys keysOf(Attention const& a, BlockTiles const& tiles,
                                            BlockRows const& rows) {
  Divisor const& size = tiles.block_size;
  int const slots = static_cast<int>(a.slots);
  bool const all_see_firsts = a.params.inter_block == InterBlock::kAllToFirst;
  BlockKeys keys;
  int const last = rows.past + rows.end - 1;
  keys.firsts = all_see_firsts ? min(size.divide(last), size.divideUp(slots)) : 0;
  keys.first_boxes = ceilDiv(keys.firsts, kBoxKeys);
  keys.begin = size.divide(rows.past + rows.begin) * size.divisor;
  keys.end = min(last + 1, slots);
  keys.boxes = keys.first_boxes + max(ceilDiv(keys.end - keys.begin, kBoxKeys), 0);
  return keys;
}

// Where a box's keys are: `row` of the first tokens' map or of the other one. What is behind the last box
// lies behind the last slot, and is loaded as zeros.
struct BoxPlace {
  bool firsts;
  int row;
};

__device__ __forceinline__ BoxPlace placeOf(Attention const& a, BlockKeys const& keys, int box) {
  if (box < keys.first_boxes) return {true, box * kBoxKeys};
  bool const exists = box < keys.boxes;
  return {false, exists ? keys.begin + (box - keys.first_boxes) * kBoxKeys : static_cast<int>(a.slots)};
}

// Bits 0 .. count - 1.
__device__ __forceinline__ uint32_t bitsBelow(int count) {
  return count <= 0 ? 0U : 0xFFFFFFFFU >> (32 - min(count, 32));
}

// What of a list a row sees: those before `firsts`, and those from `low` to `high`.
struct BlockSight {
  int firsts, low, high;

  // A bit a key of 32 from `index` on.
  __device__ __forceinline__ uint32_t word(int index) const {
    return bitsBelow(firsts - index) | (bitsBelow(high + 1 - index) & ~bitsBelow(low - index));
  }
};

// Of a row that is none of the tile's it says something else, which nobody asks.
__device__ __forceinline__ BlockSight sightOf(Attention const& a, BlockTiles const& tiles,
                                              BlockRows const& rows, BlockKeys const& keys, int token) {
  int const position = rows.past + token, block = tiles.block_size.divide(position);
  return {min(block, keys.firsts), block * tiles.block_size.divisor + keys.shift(),
          min(position, static_cast<int>(a.slots) - 1) + keys.shift()};
}

// Places of a list whose keys nobody wrote: behind the last first token, and behind the last position.
struct Unwritten {
  int begin[2], end[2];

  __device__ __forceinline__ bool among(int index, int count) const {
    return (begin[0] < end[0] && begin[0] < index + count && end[0] > index) ||
           (begin[1] < end[1] && begin[1] < index + count && end[1] > index);
  }
};

__device__ __forceinline__ Unwritten unwrittenOf(Attention const& a, BlockTiles const& tiles,
                                                 BlockRows const& rows, BlockKeys const& keys) {
  int const written = min(rows.past + rows.tokens, static_cast<int>(a.slots));
  return {{tiles.block_size.divideUp(written), max(written, keys.begin) + keys.shift()},
          {keys.first_boxes * kBoxKeys, keys.boxes * kBoxKeys}};
}

}  // namespace r1trt::kernels::hla::prefill
