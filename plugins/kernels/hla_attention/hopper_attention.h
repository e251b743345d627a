// The full branch of prefill by Hopper's own instructions, for sm_90a. Compiled in where R1TRT_HOPPER_KERNELS
// is defined.
#pragma once

#include "stages.cuh"

namespace r1trt::kernels::hla {

constexpr int kHopperArchitecture = 90;
constexpr int kHopperLeastTokens = 64;  // fewer leave most of a tile's 128 rows empty

// Whether the full branch of a call is theirs; the block branch stays with the other kernel.
inline bool hopperTakes(Attention const& a, int sm) {
  HlaAttentionParams const& p = a.params;
  auto is = [&](int qk, int v) { return p.qk_head_dim == qk && p.v_head_dim == v; };
  bool const sizes = is(64, 64) || is(128, 128) || is(192, 128);
  int64_t const rows =
      static_cast<int64_t>(p.batch) * (p.key_cache != nullptr ? p.kv_heads * a.slots : p.seq);
  return sm == kHopperArchitecture && sizes && p.value_cache == nullptr == (p.key_cache == nullptr) &&
         p.seq >= kHopperLeastTokens && a.splits == 1 && a.scale_log2 > 0.0F && p.heads <= 65535 &&
         rows <= INT32_MAX;
}

// Whether this library was compiled with them.
bool hopperBuilt();

// y += lam * the full branch, where lam is above 0; where lam is 1, y is not read.
cudaError_t launchHopperAttention(Attention const& attention, cudaStream_t stream);

}  // namespace r1trt::kernels::hla
