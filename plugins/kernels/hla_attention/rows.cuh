// Which rows a block computes, in which order, and which keys they see.
#pragma once

#include "stages.cuh"

namespace r1trt::kernels::hla {

// A row of a tile. A row that is not there sees no key.
struct Row {
  int token = -1;  // s
  int head = 0;    // query head
  int position = -1;
  int firsts = 0;  // first tokens of blocks that its block branch sees: those of blocks 0 .. firsts - 1
  int own_begin =
      INT32_MAX;  // first key of the own block; none for a block's first query, a first token itself
  float lam = 0.0F;
};

constexpr int kRowClasses = 3;  // lam is 1, between, 0
constexpr int kCandidateWords = kMaxCandidates / kWarpSize;

// The rows of a block: first those with lam 1, then those between, then those with lam 0.
struct RowList {
  int candidate[kMaxCandidates];
  alignas(16) unsigned votes[kRowClasses * kCandidateWords];  // by class, a bit a candidate
  int full_only, both, block_only;

  __device__ __forceinline__ int size() const { return full_only + both + block_only; }
};

// Votes in the words in front of one.
__device__ __forceinline__ int votesBefore(RowList const& list, int word) {
  int sum = 0;
#pragma unroll
  for (int i = 0; i < kRowClasses * kCandidateWords; ++i) sum += i < word ? __popc(list.votes[i]) : 0;
  return sum;
}

// What a block works on.
struct BlockWork {
  int64_t b;
  int kv_head, split;
  bool firsts;     // only rows of blocks' first tokens
  int candidate0;  // first of its rows, among the tokens' or among the first tokens'
  int tokens;      // no padding
  int past;
};

__device__ __forceinline__ BlockWork findWork(Attention const& a) {
  BlockWork work;
  work.b = blockIdx.z;
  work.kv_head = static_cast<int>(blockIdx.y) / a.splits;
  work.split = static_cast<int>(blockIdx.y) % a.splits;
  // Late tokens see most keys: their blocks start first.
  int const chunk = a.chunks + a.first_chunks - 1 - static_cast<int>(blockIdx.x);
  work.firsts = chunk >= a.chunks;
  work.candidate0 = (work.firsts ? chunk - a.chunks : chunk) * a.candidates;
  work.tokens = tokensOf(a.params, work.b);
  work.past = static_cast<int>(pastOf(a.params, work.b));
  return work;
}

// Token of a candidate; may lie beyond the last one.
__device__ __forceinline__ int tokenOf(Attention const& a, BlockWork const& work, int candidate) {
  int const index = (work.candidate0 + candidate) / a.group;
  if (!work.firsts) return index;
  int const size = a.params.block_size;
  return ceilDiv(work.past, size) * size - work.past + index * size;
}

__device__ __forceinline__ Row rowOf(Attention const& a, BlockWork const& work, int candidate) {
  HlaAttentionParams const& p = a.params;
  Row row;
  int const token = tokenOf(a, work, candidate);
  if (candidate >= a.candidates || token >= work.tokens) return row;
  row.token = token;
  row.head = work.kv_head * a.group + (work.candidate0 + candidate) % a.group;
  row.position = work.past + token;
  row.lam = lamOf(p, work.b, token, row.head);
  int const block = row.position / p.block_size;
  if (row.position % p.block_size == 0) {
    row.firsts = block + 1;
  } else {
    row.firsts = p.inter_block == InterBlock::kAllToFirst ? block : 0;
    row.own_begin = block * p.block_size;
  }
  return row;
}

// 0: lam is 1; 1: between; 2: lam is 0; -1: not a row of this block.
__device__ __forceinline__ int classOf(Attention const& a, BlockWork const& work, int candidate) {
  Row const row = rowOf(a, work, candidate);
  if (row.token < 0) return -1;
  bool const apart = a.first_chunks > 0 && row.position % a.params.block_size == 0 && row.lam < 1.0F;
  if (apart != work.firsts) return -1;
  return row.lam >= 1.0F ? 0 : row.lam > 0.0F ? 1 : 2;
}

// By all threads of the block, with a barrier between their votes and what follows from them; to be followed
// by another one.
//
// For example 4 candidates with lam .5, 1, 0, 1: votes of class 0 (lam 1) are 1010, of class 1 0001, of class
// 2 0100 (bit i is candidate i); so candidates 1 and 3 are rows 0 and 1, candidate 0 is row 2, candidate 2
// row 3.
template <int kThreads>
__device__ __forceinline__ void listRows(Attention const& a, BlockWork const& work, RowList& list) {
  static_assert(kMaxCandidates % kThreads == 0, "every vote has its word");
  constexpr int kRounds = kMaxCandidates / kThreads;
  int const thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize;
  int kind[kRounds];
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    int const candidate = i * kThreads + thread;
    kind[i] = candidate < a.candidates ? classOf(a, work, candidate) : -1;
#pragma unroll
    for (int k = 0; k < kRowClasses; ++k) {
      unsigned const votes = __ballot_sync(kAllLanes, kind[i] == k ? 1 : 0);
      if (lane == 0) list.votes[k * kCandidateWords + candidate / kWarpSize] = votes;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kRounds; ++i) {
    if (kind[i] < 0) continue;
    int const candidate = i * kThreads + thread;
    int const word = kind[i] * kCandidateWords + candidate / kWarpSize;
    int const row = votesBefore(list, word) + __popc(list.votes[word] & ((1U << lane) - 1U));
    list.candidate[row] = candidate;
  }
  if (thread == 0) {
    list.full_only = votesBefore(list, kCandidateWords);
    list.both = votesBefore(list, 2 * kCandidateWords) - list.full_only;
    list.block_only = votesBefore(list, kRowClasses * kCandidateWords) - list.full_only - list.both;
  }
}

// A branch's keys for a tile: first tokens of blocks, then a stretch of positions.
struct KeyList {
  int firsts;  // block i's first token, i < firsts; then
  int begin;   // positions from here
  int size;    // all of them
};

__device__ __forceinline__ int warpMaxInt(int value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    int const other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// The same in every warp. `rows` are the tile's, `count` of them.
template <int kRows>
__device__ __forceinline__ KeyList keysOf(Attention const& a, Row const* rows, int count, bool block_branch) {
  int const lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int firsts = 0, last = -1, negative_begin = INT32_MIN;
  for (int i = lane; i < kRows && i < count; i += kWarpSize) {
    Row const& row = rows[i];
    if (!block_branch) {
      if (row.lam > 0.0F) last = max(last, row.position);
    } else if (row.lam < 1.0F) {
      firsts = max(firsts, row.firsts);
      if (row.own_begin != INT32_MAX) {
        last = max(last, row.position);
        negative_begin = max(negative_begin, -row.own_begin);
      }
    }
  }
  last = warpMaxInt(last);
  int const slots = static_cast<int>(a.slots);
  last = last < slots ? last : slots - 1;
  if (!block_branch) return {0, 0, last + 1};
  KeyList keys;
  int const existing = ceilDiv(slots, a.params.block_size);
  keys.firsts = warpMaxInt(firsts);
  keys.firsts = keys.firsts < existing ? keys.firsts : existing;
  negative_begin = warpMaxInt(negative_begin);
  keys.begin = negative_begin == INT32_MIN ? 0 : -negative_begin;
  keys.size = keys.firsts + (negative_begin == INT32_MIN || last < keys.begin ? 0 : last + 1 - keys.begin);
  return keys;
}

__device__ __forceinline__ int keyPosition(KeyList const& keys, int index, int block_size) {
  return index < keys.firsts ? index * block_size : keys.begin + index - keys.firsts;
}

// Which of a branch's keys a row sees: those before `firsts`, and those from `low` to `high`.
struct Visible {
  int firsts, low, high;
};

template <bool kBlockBranch>
__device__ __forceinline__ Visible visibleTo(Row const& row, KeyList const& keys) {
  if constexpr (!kBlockBranch) return {0, 0, min(row.position, keys.size - 1)};
  int const shift = keys.firsts - keys.begin;  // of a position in the list
  Visible visible{min(row.firsts, keys.firsts), INT32_MAX, min(row.position + shift, keys.size - 1)};
  if (row.own_begin != INT32_MAX) visible.low = max(row.own_begin + shift, keys.firsts);
  return visible;
}

// Without a branch: what is not needed costs less than to jump over it.
template <bool kBlockBranch>
__device__ __forceinline__ bool sees(Visible const& visible, int index) {
  if constexpr (!kBlockBranch) return index <= visible.high;
  return (index < visible.firsts) | ((index >= visible.low) & (index <= visible.high));
}

// Whether a row sees all of `count` keys from `index` on.
template <bool kBlockBranch>
__device__ __forceinline__ bool seesAll(Visible const& visible, int index, int count) {
  if constexpr (!kBlockBranch) return index + count - 1 <= visible.high;
  return (index + count <= visible.firsts) | ((index >= visible.low) & (index + count - 1 <= visible.high));
}

}  // namespace r1trt::kernels::hla
