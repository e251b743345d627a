// Rotary embedding with a temperature past the trained length, of queries and keys in one pass.
//
// Legend: B batch, S tokens of this call, H query heads, Hkv key heads, d head size, r rotary size, C
// capacity.
#pragma once

#include "../common/types.h"

namespace r1trt::kernels {

struct DynamicRopeParams {
  // Element type of q, k, their outputs and the cache: kFloat32, kFloat16 or kBFloat16.
  DataType data_type = DataType::kBFloat16;

  int32_t batch = 0;       // B
  int32_t seq = 0;         // S
  int32_t heads = 0;       // H
  int32_t kv_heads = 0;    // Hkv; 0 together with a null k rotates queries alone
  int32_t head_dim = 0;    // d
  int32_t rotary_dim = 0;  // r: even, at most d; the other d - r elements are copied

  bool interleaved = false;           // pairs (2i, 2i + 1) instead of (i, i + r/2)
  float attention_factor = 1.0F;      // multiplies cos and sin
  float temperature_alpha = 0.0F;     // t(pos) = 1 + alpha * ln(pos / original), from `original` on
  int32_t original_max_position = 0;  // 0: no temperature

  void const* q = nullptr;            // [B, S, H, d]
  void const* k = nullptr;            // [B, S, Hkv, d]
  float const* inv_freq = nullptr;    // [r/2]
  int64_t const* past_len = nullptr;  // [B]; position of token s of row b = past_len[b] + s
  void* q_out = nullptr;              // [B, S, H, d]; may be q itself
  void* k_out = nullptr;              // [B, S, Hkv, d]; may be k itself; null when only the cache is wanted

  // Fused cache write, off while `key_cache` is null: rotated key s of row b, s < seq_len[b], goes to slot
  // past_len[b] + s. A slot outside the capacity is not written.
  void* key_cache = nullptr;         // [B, Hkv, C, d]
  int64_t const* seq_len = nullptr;  // [B]; null: all S tokens
  int64_t cache_capacity = 0;        // C
};

// Enqueues the rotation. An empty batch or sequence enqueues nothing and succeeds.
cudaError_t launchDynamicRope(DynamicRopeParams const& params, cudaStream_t stream) noexcept;

}  // namespace r1trt::kernels
