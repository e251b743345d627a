// The kernels of one attention call in order, and what they share. Not part of the public header.
//
// A key/value head's queries are rows r = s * G + g: token s, query head g of the G that share the head.
#pragma once

#include "../common/platform.cuh"
#include "hla_attention.h"

namespace r1trt::kernels::hla {

constexpr int kMaxCandidates = 256;  // rows that a block looks through for those it computes
constexpr int kMaxSplits = 64;
constexpr int kBranches = 2;  // the full one, then the block one

// Keys or values: element [b, kv head, position, i] at b * batch + head * head + position * token + i.
struct Source {
  void const* data;
  int64_t batch, head, token;
};

struct Attention {
  HlaAttentionParams params;
  Source keys, values;
  int64_t slots;         // positions that exist: the capacity, or S without a cache
  int32_t group;         // G
  int32_t candidates;    // rows of a block, at most kMaxCandidates
  int32_t chunks;        // blocks of rows in the order of tokens
  int32_t first_chunks;  // blocks of rows of blocks' first tokens alone; 0: those are among the others
  int32_t splits;        // parts of the keys, each a block; 1: the attention kernel itself writes y
  bool full_elsewhere;   // another kernel computes the full branch
  bool overlaps;         // kernels may start before the one in front of them has ended
  int32_t num_sms;
  uint8_t* votes;      // of another kernel: see hopper_votes.cuh
  float scale_log2;    // of the scores, for exponentials of base 2
  float* partial;      // [branch, B, Hkv, S * G, splits, dv], normalized in its split
  float* partial_lse;  // [branch, B, Hkv, S * G, splits], base 2; -infinity: no key
};

// A lam as it counts.
__device__ __forceinline__ float countedLam(HlaAttentionParams const& p, float lam) {
  if (p.lam_skip > 0.0F && lam < p.lam_skip) return 0.0F;
  return p.lam_skip > 0.0F && lam > 1.0F - p.lam_skip ? 1.0F : lam;
}

// Weight of the full branch of a row.
__device__ __forceinline__ float lamOf(HlaAttentionParams const& p, int64_t b, int64_t s, int head) {
  return p.lam == nullptr ? 1.0F : countedLam(p, p.lam[(b * p.seq + s) * p.heads + head]);
}

// Whether row b begins inside the cache or at its end. If not, it is left alone.
__device__ __forceinline__ bool isPlaced(HlaAttentionParams const& p, int64_t b) {
  return p.past_len == nullptr || (p.past_len[b] >= 0 && p.past_len[b] <= p.cache_capacity);
}

// Tokens of row b that are no padding.
__device__ __forceinline__ int tokensOf(HlaAttentionParams const& p, int64_t b) {
  int64_t const length = p.seq_len == nullptr ? p.seq : p.seq_len[b];
  if (length <= 0 || !isPlaced(p, b)) return 0;
  return length < p.seq ? static_cast<int>(length) : p.seq;
}

__device__ __forceinline__ int64_t pastOf(HlaAttentionParams const& p, int64_t b) {
  return p.past_len == nullptr || !isPlaced(p, b) ? 0 : p.past_len[b];
}

// Whether the call has new keys or values to write.
inline bool writesCache(HlaAttentionParams const& p) {
  return (p.key_cache != nullptr && p.write_key_cache && p.k != nullptr) ||
         (p.value_cache != nullptr && p.v != nullptr);
}

cudaError_t launchCacheWrite(Attention const& attention, cudaStream_t stream);
cudaError_t launchCombine(Attention const& attention, cudaStream_t stream);

// The tiles by head size; `small` has 16 rows instead of 64.
cudaError_t launchAttention64(Attention const& attention, bool small, cudaStream_t stream);
cudaError_t launchAttention128(Attention const& attention, bool small, cudaStream_t stream);
cudaError_t launchAttention192(Attention const& attention, bool small, cudaStream_t stream);
cudaError_t launchAttentionLatent(Attention const& attention, bool small, cudaStream_t stream);

}  // namespace r1trt::kernels::hla
