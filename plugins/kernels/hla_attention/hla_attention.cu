// The call: checks, the split of rows and keys over blocks, and the order of the kernels.
#include "hla_attention.h"

#include <cmath>

#include "hopper_latent.h"
#include "hopper_prefill.h"
#include "stages.cuh"

namespace r1trt::kernels {
namespace hla {
namespace {

constexpr int kSmallRows = 16;
constexpr int kLargeRows = 64;
constexpr int kDecodingRows = 128;  // of a key/value head: at most this many have their keys split
constexpr int64_t kBlocksOfSm = 2;
constexpr int kAssumedSms = 160;               // where no device says
constexpr int kLatentSharedBytes = 148 << 10;  // of its large tile

enum class HeadSize { k64, k128, k192, kLatent, kUnsupported };

HeadSize headSize(HlaAttentionParams const& p) {
  auto is = [&](int qk, int v) { return p.qk_head_dim == qk && p.v_head_dim == v; };
  if (is(64, 64)) return HeadSize::k64;
  if (is(128, 128)) return HeadSize::k128;
  if (is(192, 128)) return HeadSize::k192;
  return is(kLatentQk, kLatentV) && p.kv_heads == 1 ? HeadSize::kLatent : HeadSize::kUnsupported;
}

// Most shared memory of a block; sm_86, sm_89 and sm_120 have the least.
int sharedLimit(int sm) {
  return sm == 80 ? 163 << 10 : sm / 10 == 8 || sm / 10 == 12 ? 99 << 10 : 227 << 10;
}

bool smallTiles(HlaAttentionParams const& p, int sm) {
  bool const latent = headSize(p) == HeadSize::kLatent;
  int64_t const rows = static_cast<int64_t>(p.seq) * (p.heads / p.kv_heads);
  return rows <= kSmallRows || (latent && sharedLimit(sm) < kLatentSharedBytes);
}

bool takenByHopperLatent(HlaAttentionParams const& p, int sm) {
  return hopperBuilt() && hopperLatentTakes(p, sm);
}

// Parts of the keys, so that a decoding call fills the GPU. By the capacity, for lengths are on the device.
int splitsOf(HlaAttentionParams const& p, int64_t slots, int64_t blocks, int num_sms) {
  constexpr int64_t kKeysOfSplit = 128;  // fewer are not worth a combination
  int64_t const rows = static_cast<int64_t>(p.seq) * (p.heads / p.kv_heads);
  if (rows > kDecodingRows && p.seq > 1) return 1;
  int64_t splits = kBlocksOfSm * num_sms / blocks;
  int64_t const by_keys = slots / kKeysOfSplit;
  splits = splits < by_keys ? splits : by_keys;
  return static_cast<int>(splits < 1 ? 1 : splits < kMaxSplits ? splits : kMaxSplits);
}

Attention attentionFromParams(HlaAttentionParams const& p, int sm, int num_sms) {
  Attention a{};
  a.params = p;
  a.num_sms = num_sms;
  a.group = p.heads / p.kv_heads;
  bool const cached = p.key_cache != nullptr;
  auto source = [&](void const* cache, void const* fresh, int64_t size) {
    if (cached) return Source{cache, p.kv_heads * p.cache_capacity * size, p.cache_capacity * size, size};
    return Source{fresh, static_cast<int64_t>(p.seq) * p.kv_heads * size, size, p.kv_heads * size};
  };
  a.keys = source(p.key_cache, p.k, p.qk_head_dim);
  a.values = source(p.value_cache, p.v, p.v_head_dim);
  a.slots = cached ? p.cache_capacity : p.seq;
  if (!cached) a.params.past_len = nullptr;

  // With lam, a block looks through more rows than a tile has, to fill tiles with rows of one kind.
  bool const small = smallTiles(p, sm);
  int const tile = small ? kSmallRows : kLargeRows;
  a.candidates = p.lam == nullptr ? tile : small ? kLargeRows : kMaxCandidates;
  int64_t const rows = static_cast<int64_t>(p.seq) * a.group;
  a.chunks = static_cast<int>(ceilDiv<int64_t>(rows, a.candidates));
  a.splits = takenByHopperLatent(p, sm)
                 ? hopperLatentSplits(p, a.slots, num_sms)
                 : splitsOf(p, a.slots, static_cast<int64_t>(a.chunks) * p.kv_heads * p.batch, num_sms);
  bool const apart = p.lam != nullptr && p.inter_block == InterBlock::kFirstToFirst && a.splits == 1;
  if (apart) {
    int64_t const first_rows = static_cast<int64_t>(ceilDiv(p.seq, p.block_size)) * a.group;
    a.first_chunks = static_cast<int>(ceilDiv<int64_t>(first_rows, a.candidates));
  }
  float const scale = p.scale != 0.0F ? p.scale : 1.0F / std::sqrt(static_cast<float>(p.qk_head_dim));
  a.scale_log2 = scale * 1.4426950408889634F;
  return a;
}

int64_t partialRows(HlaAttentionParams const& p, int splits) {
  return static_cast<int64_t>(kBranches) * p.batch * p.seq * p.heads * splits;
}

size_t workspaceSize(HlaAttentionParams const& p, int64_t partial_rows) {
  size_t const rows = static_cast<size_t>(partial_rows);
  return alignUp(rows * sizeof(float)) + alignUp(rows * static_cast<size_t>(p.v_head_dim) * sizeof(float));
}

cudaError_t check(HlaAttentionParams const& p) {
  if (p.data_type != DataType::kBFloat16 && p.data_type != DataType::kFloat16) return cudaErrorNotSupported;
  bool const sizes = p.batch >= 0 && p.seq >= 0 && p.heads > 0 && p.kv_heads > 0 &&
                     p.heads % p.kv_heads == 0 && p.block_size > 0 && p.batch <= 65535 &&
                     p.kv_heads <= 65535 / kMaxSplits && p.lam_skip >= 0.0F && p.lam_skip <= 0.5F;
  int64_t const slots = p.key_cache != nullptr ? p.cache_capacity : p.seq;
  if (!sizes || slots < 0 || slots > INT32_MAX / 2) return cudaErrorInvalidValue;
  return headSize(p) == HeadSize::kUnsupported ? cudaErrorNotSupported : cudaSuccess;
}

cudaError_t checkPointers(HlaAttentionParams const& p) {
  bool const latent = headSize(p) == HeadSize::kLatent, cached = p.key_cache != nullptr;
  bool good = p.q != nullptr && p.y != nullptr && (cached || p.k != nullptr);
  if (!latent) good = good && (cached ? p.value_cache != nullptr : p.v != nullptr);
  if (latent) good = good && p.v == nullptr && p.value_cache == nullptr;
  for (void const* pointer :
       {p.q, p.k, p.v, static_cast<void const*>(p.y), static_cast<void const*>(p.key_cache),
        static_cast<void const*>(p.value_cache), static_cast<void const*>(p.workspace)}) {
    good = good && aligned16(pointer);
  }
  return good ? cudaSuccess : cudaErrorInvalidDevicePointer;
}

cudaError_t launchTiles(Attention const& a, int sm, cudaStream_t stream) {
  bool const small = smallTiles(a.params, sm);
  switch (headSize(a.params)) {
    case HeadSize::k64:
      return launchAttention64(a, small, stream);
    case HeadSize::k128:
      return launchAttention128(a, small, stream);
    case HeadSize::k192:
      return launchAttention192(a, small, stream);
    case HeadSize::kLatent:
      return launchAttentionLatent(a, small, stream);
    default:
      return cudaErrorNotSupported;
  }
}

// The block branch, but for that of first tokens where they alone see others; that one; the full branch.
cudaError_t launchPrefill(Attention& a, int sm, cudaStream_t stream) {
  bool const blocks = a.params.lam != nullptr;
  if (blocks && a.params.workspace_size < prefill::hopperWorkspaceSize(a.params)) {
    return cudaErrorMemoryAllocation;
  }
  a.full_elsewhere = true;
  a.votes = static_cast<uint8_t*>(a.params.workspace);
  cudaError_t error = blocks ? prefill::launchHopperBlock(a, stream) : cudaSuccess;
  a.chunks = 0;
  if (error == cudaSuccess && a.first_chunks > 0) error = launchTiles(a, sm, stream);
  return error == cudaSuccess ? prefill::launchHopperAttention(a, stream) : error;
}

}  // namespace
}  // namespace hla

size_t hlaAttentionWorkspaceSize(HlaAttentionParams const& params) noexcept {
  if (hla::check(params) != cudaSuccess || params.batch == 0 || params.seq == 0) return 0;
  DeviceLimits limits;
  int num_sms = params.num_sms;
  if (num_sms == 0) num_sms = deviceLimits(limits) == cudaSuccess ? limits.num_sms : hla::kAssumedSms;
  // A shorter call of the same profile may be split where the longest is not: the most that any of them
  // needs. Blocks times splits are at most kBlocksOfSm * num_sms, and a block has at most so many rows.
  int64_t const group = params.heads / params.kv_heads;
  int64_t const longest = group < hla::kDecodingRows ? hla::kDecodingRows : group;
  int64_t const rows = params.seq * group < longest ? params.seq * group : longest;
  int64_t const block_rows = rows < hla::kMaxCandidates ? rows : hla::kMaxCandidates;
  int64_t const by_blocks = hla::kBlocksOfSm * num_sms * block_rows;
  int64_t const by_splits = static_cast<int64_t>(params.batch) * params.kv_heads * rows * hla::kMaxSplits;
  size_t const partial =
      hla::workspaceSize(params, hla::kBranches * (by_blocks < by_splits ? by_blocks : by_splits));
  size_t const votes = hla::prefill::hopperWorkspaceSize(params);
  return partial > votes ? partial : votes;
}

cudaError_t launchHlaAttention(HlaAttentionParams const& params, cudaStream_t stream) noexcept {
  if (cudaError_t const error = hla::check(params); error != cudaSuccess) return error;
  if (params.batch == 0 || params.seq == 0) return cudaSuccess;
  if (cudaError_t const error = hla::checkPointers(params); error != cudaSuccess) return error;
  DeviceLimits limits;
  if (params.sm == 0 || params.num_sms == 0) {
    if (cudaError_t const error = deviceLimits(limits); error != cudaSuccess) return error;
  }
  int const sm = params.sm != 0 ? params.sm : limits.sm;
  hla::Attention attention =
      hla::attentionFromParams(params, sm, params.num_sms != 0 ? params.num_sms : limits.num_sms);
  attention.overlaps = sm >= kFirstOverlapArchitecture;
  if (attention.splits > 1) {
    int64_t const rows = hla::partialRows(params, attention.splits);
    if (params.workspace_size < hla::workspaceSize(params, rows)) return cudaErrorMemoryAllocation;
    attention.partial_lse = static_cast<float*>(params.workspace);
    attention.partial =
        attention.partial_lse + alignUp(static_cast<size_t>(rows) * sizeof(float)) / sizeof(float);
  }

  cudaError_t error = params.key_cache != nullptr ? hla::launchCacheWrite(attention, stream) : cudaSuccess;
  if (error == cudaSuccess && hla::hopperBuilt() && hla::prefill::hopperTakes(attention, sm)) {
    return hla::launchPrefill(attention, sm, stream);
  }
  if (error == cudaSuccess) {
    error = hla::takenByHopperLatent(params, sm) ? hla::launchHopperLatent(attention, stream)
                                                 : hla::launchTiles(attention, sm, stream);
  }
  return error == cudaSuccess && attention.splits > 1 ? hla::launchCombine(attention, stream) : error;
}

}  // namespace r1trt::kernels
