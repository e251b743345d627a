// Both branches of prefill by Hopper's own instructions, for sm_90a, in place of hopper_attention's full
// branch beside the other kernel's block branch. No GPU has run them yet.
#pragma once

#include "hopper_attention.h"

namespace r1trt::kernels::hla::prefill {

// Whether a call is theirs: both branches, but for the block branch of first tokens with first_to_first.
inline bool takes(Attention const& a, int sm) {
  HlaAttentionParams const& p = a.params;
  int64_t const fresh = static_cast<int64_t>(p.batch) * p.seq;
  return kUnprovenKernels && hopperTakes(a, sm) && a.slots > 0 && fresh * p.heads <= INT32_MAX;
}

// Where the block branch's kernel leaves to the full branch's which tiles have weight.
size_t hopperWorkspaceSize(HlaAttentionParams const& params);

// y = (1 - lam) * the block branch, where lam is below 1; of rows whose `isOurs` says so.
cudaError_t launchHopperBlock(Attention const& attention, cudaStream_t stream);

// y += lam * the full branch, where lam is above 0; where lam is 1, y is not read. Rows of padding become 0.
cudaError_t launchHopperAttention(Attention const& attention, cudaStream_t stream);

}  // namespace r1trt::kernels::hla::prefill
