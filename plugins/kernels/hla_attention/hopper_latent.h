// The latent form by Hopper's own instructions, for sm_90a, where there is no lam. Compiled in with those of
// prefill.
#pragma once

#include "hopper_prefill.h"

namespace r1trt::kernels::hla {

constexpr int kLatentQk = 576, kLatentV = 512;
constexpr int kLatentRows = 64, kLatentKeys = 64;  // of a tile; the rows are a block's

// Whether a call is theirs, its rows of padding included.
inline bool hopperLatentTakes(HlaAttentionParams const& p, int sm) {
  int64_t const slots = p.key_cache != nullptr ? p.cache_capacity : p.seq;
  int64_t const queries = static_cast<int64_t>(p.seq) * p.heads;
  bool const sizes = p.qk_head_dim == kLatentQk && p.v_head_dim == kLatentV && p.kv_heads == 1;
  return sm == kHopperArchitecture && sizes && p.lam == nullptr && p.scale >= 0.0F && slots > 0 &&
         slots * p.batch <= INT32_MAX && queries <= INT32_MAX && queries * p.batch <= INT32_MAX;
}

// Parts of the keys: the fewest with which the blocks, one on an SM, end soonest. By the capacity, for
// lengths are on the device; at most as many as the workspace holds.
inline int hopperLatentSplits(HlaAttentionParams const& p, int64_t slots, int64_t num_sms) {
  constexpr int64_t kTilesOfSplit = 2;       // fewer are not worth a combination
  constexpr int64_t kMostPartialRows = 128;  // times kMaxSplits: what each batch row has
  int64_t const rows = static_cast<int64_t>(p.seq) * p.heads;
  int64_t const blocks = ceilDiv<int64_t>(rows, kLatentRows) * p.batch;
  int64_t const tiles = ceilDiv<int64_t>(slots, kLatentKeys);
  int64_t best = 1, least = ceilDiv(blocks, num_sms) * tiles;
  for (int64_t splits = 2; splits <= kMaxSplits; ++splits) {
    bool const fits = splits * blocks <= 2 * num_sms && splits * rows <= kMaxSplits * kMostPartialRows;
    if (!fits || splits * kTilesOfSplit > tiles) break;
    int64_t const time = ceilDiv(splits * blocks, num_sms) * ceilDiv(tiles, splits);
    if (time < least) best = splits, least = time;
  }
  return static_cast<int>(best);
}

// y of the whole call, or its partial outputs where the keys are split; rows of padding are set to 0.
cudaError_t launchHopperLatent(Attention const& attention, cudaStream_t stream);

}  // namespace r1trt::kernels::hla
