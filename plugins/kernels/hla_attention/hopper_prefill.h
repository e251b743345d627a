// Both branches of prefill by Hopper's own instructions, for sm_90a. Compiled in where R1TRT_HOPPER_KERNELS
// is defined.
#pragma once

#include "stages.cuh"

namespace r1trt::kernels::hla {

constexpr int kHopperArchitecture = 90;

// Whether this library was compiled with kernels of Hopper's own instructions.
bool hopperBuilt();

namespace prefill {

constexpr int kHopperLeastTokens = 64;  // fewer leave most of a tile's 128 rows empty

// Whether a call is theirs: both branches, but for the block branch of first tokens with first_to_first.
inline bool hopperTakes(Attention const& a, int sm) {
  HlaAttentionParams const& p = a.params;
  auto is = [&](int qk, int v) { return p.qk_head_dim == qk && p.v_head_dim == v; };
  bool const sizes = is(64, 64) || is(128, 128) || is(192, 128);
  int64_t const fresh = static_cast<int64_t>(p.batch) * p.seq;
  int64_t const rows = p.key_cache != nullptr ? static_cast<int64_t>(p.batch) * p.kv_heads * a.slots : fresh;
  return sm == kHopperArchitecture && sizes && p.value_cache == nullptr == (p.key_cache == nullptr) &&
         p.seq >= kHopperLeastTokens && a.splits == 1 && a.scale_log2 > 0.0F && p.heads <= 65535 &&
         a.slots > 0 && rows <= INT32_MAX && fresh * p.heads <= INT32_MAX;
}

// Where the block branch's kernel leaves to the full branch's which tiles have weight.
size_t hopperWorkspaceSize(HlaAttentionParams const& params);

// y = (1 - lam) * the block branch, where lam is below 1; of rows whose `isOurs` says so.
cudaError_t launchHopperBlock(Attention const& attention, cudaStream_t stream);

// y += lam * the full branch, where lam is above 0; where lam is 1, y is not read. Rows of padding become 0.
cudaError_t launchHopperAttention(Attention const& attention, cudaStream_t stream);

}  // namespace prefill
}  // namespace r1trt::kernels::hla
