// Hybrid-length attention against a fixed-capacity cache:
//   y = lam * SoftmaxAttn(q, K, V) + (1 - lam) * BlockAttn(q, K, V)
// causal, grouped queries, positions absolute. A branch whose weight is 0 is not computed.
//
// Legend: B batch, S tokens of this call, H query heads, Hkv key/value heads, C cache capacity,
// dqk, dv head sizes of queries/keys and of values.
#pragma once

#include "../common/types.h"

namespace r1trt::kernels {

enum class InterBlock : int32_t {
  kFirstToFirst = 0,  // a block's first query also sees the first token of every earlier block
  kAllToFirst = 1,    // every query does
};

struct HlaAttentionParams {
  // Element type of q, k, v, the caches and y: kFloat16 or kBFloat16.
  DataType data_type = DataType::kBFloat16;

  int32_t batch = 0;        // B
  int32_t seq = 0;          // S
  int32_t heads = 0;        // H, a multiple of Hkv
  int32_t kv_heads = 0;     // Hkv
  int32_t qk_head_dim = 0;  // dqk
  int32_t v_head_dim = 0;   // dv
  // Supported (dqk, dv): (64, 64), (128, 128), (192, 128); latent form (v null) with Hkv = 1: (576, 512).

  float scale = 0.0F;  // of the scores; 0: 1 / sqrt(dqk)
  int32_t block_size = 32;
  InterBlock inter_block = InterBlock::kFirstToFirst;
  float lam_skip = 0.0F;  // lam below it counts as 0, above 1 - it as 1

  void const* q = nullptr;            // [B, S, H, dqk]
  void const* k = nullptr;            // [B, S, Hkv, dqk]; may be null when the cache already holds these rows
  void const* v = nullptr;            // [B, S, Hkv, dv]; null in the latent form: a key's first dv elements
  float const* lam = nullptr;         // [B, S, H]; null: 1 everywhere
  int64_t const* past_len = nullptr;  // [B]; null: 0 everywhere. A row that is not at 0 .. C is all padding
  int64_t const* seq_len = nullptr;   // [B], at most S; null: S everywhere
  void* y = nullptr;                  // [B, S, H, dv]; rows of padding tokens are set to 0

  // The cache, read and updated in place: rows s < seq_len[b] of k and v are written at past_len[b] + s. A
  // slot outside the capacity is neither written nor read. Both null: no cache, keys are k and v and past_len
  // is 0.
  void* key_cache = nullptr;    // [B, Hkv, C, dqk]
  void* value_cache = nullptr;  // [B, Hkv, C, dv]; null in the latent form
  int64_t cache_capacity = 0;   // C
  bool write_key_cache = true;  // false where the rotation already wrote the keys

  void* workspace = nullptr;
  size_t workspace_size = 0;

  int32_t sm = 0;       // compute capability times 10, as 80 or 90; 0: ask the current device
  int32_t num_sms = 0;  // multiprocessors that decoding is split over; 0: ask the current device
};

// Workspace for these sizes (pointers are not looked at); grows with B, S and C, so the maxima of an
// optimization profile give its maximum.
size_t hlaAttentionWorkspaceSize(HlaAttentionParams const& params) noexcept;

// Enqueues cache update and attention; capturable, no synchronization, deterministic.
cudaError_t launchHlaAttention(HlaAttentionParams const& params, cudaStream_t stream) noexcept;

}  // namespace r1trt::kernels
