// New keys and values into the cache; and the splits' parts put together.
//
// Bytes: the new keys and values read and written; of each row and branch the splits' outputs in FP32, dv
// each, and their sums. FLOPs: 2 dv a split. The bytes, or with few rows the launches, are the bound.
#include "../common/numeric.cuh"
#include "stages.cuh"

namespace r1trt::kernels::hla {
namespace {

constexpr int kThreads = 256;
constexpr int kPartsAtOnce = 8;
using Word = Vector<uint32_t, 4>;  // 16 bytes

struct CacheWrite {
  void const* source;  // [B, S, Hkv, d]
  void* cache;         // [B, Hkv, C, d]
  int64_t capacity;
  int32_t words;  // of a row
};

__device__ __forceinline__ void writeRows(HlaAttentionParams const& p, CacheWrite const& write, int64_t b,
                                          int64_t s, int64_t slot) {
  if (write.source == nullptr) return;
  auto const* source = static_cast<Word const*>(write.source) + (b * p.seq + s) * p.kv_heads * write.words;
  auto* cache = static_cast<Word*>(write.cache);
  for (int i = static_cast<int>(threadIdx.x); i < p.kv_heads * write.words; i += kThreads) {
    int64_t const row = (b * p.kv_heads + i / write.words) * write.capacity + slot;
    cache[row * write.words + i % write.words] = source[i];
  }
}

__global__ void __launch_bounds__(kThreads)
    cacheWriteKernel(HlaAttentionParams const p, CacheWrite const keys, CacheWrite const values) {
  startNextGrid();
  int64_t const s = blockIdx.x, b = blockIdx.y, slot = pastOf(p, b) + s;
  if (s >= tokensOf(p, b) || slot >= p.cache_capacity) return;
  writeRows(p, keys, b, s, slot);
  writeRows(p, values, b, s, slot);
}

// One branch of one row: the splits by their share of the softmax.
__device__ __forceinline__ void addBranch(Attention const& a, int64_t row, float weight, int column,
                                          float (&sum)[4]) {
  float largest = -INFINITY, total = 0.0F, out[4] = {};
  float const* const lse = a.partial_lse + row * a.splits;
  for (int i = 0; i < a.splits; ++i) largest = fmaxf(largest, lse[i]);
  float const offset = largest == -INFINITY ? 0.0F : largest;
  auto const* const parts =
      reinterpret_cast<Vector<float, 4> const*>(a.partial + row * a.splits * a.params.v_head_dim + column);
  int const pitch = a.params.v_head_dim / 4;
#pragma unroll kPartsAtOnce  // no branch keeps their loads apart: a part without a key is written, too
  for (int i = 0; i < a.splits; ++i) {
    float const share = fastExp2(lse[i] - offset);
    total += share;
    Vector<float, 4> const part = parts[i * pitch];
#pragma unroll
    for (int j = 0; j < 4; ++j) out[j] += share * part.value[j];
  }
  float const factor = total > 0.0F ? weight / total : 0.0F;
#pragma unroll
  for (int j = 0; j < 4; ++j) sum[j] += out[j] * factor;
}

template <class T>
__global__ void __launch_bounds__(kThreads) combineKernel(Attention const a) {
  HlaAttentionParams const& p = a.params;
  int64_t const s = blockIdx.x, b = blockIdx.y;
  waitForLastGrid();
  if (s >= tokensOf(p, b)) return;
  int const columns = p.v_head_dim / 4,
            i = static_cast<int>(blockIdx.z) * kThreads + static_cast<int>(threadIdx.x);
  if (i < p.heads * columns) {
    int const head = i / columns, column = i % columns * 4;
    float const lam = lamOf(p, b, s, head);
    int64_t const in_head = s * a.group + head % a.group;
    int64_t const row = (b * p.kv_heads + head / a.group) * p.seq * a.group + in_head;
    int64_t const all_rows = static_cast<int64_t>(p.batch) * p.kv_heads * p.seq * a.group;
    float sum[4] = {};
    if (lam > 0.0F) addBranch(a, row, lam, column, sum);
    if (lam < 1.0F) addBranch(a, all_rows + row, 1.0F - lam, column, sum);
    Vector<T, 4> result;
#pragma unroll
    for (int j = 0; j < 4; ++j) result.value[j] = fromFloat<T>(sum[j]);
    T* const y = static_cast<T*>(p.y) + ((b * p.seq + s) * p.heads + head) * p.v_head_dim;
    *reinterpret_cast<Vector<T, 4>*>(y + column) = result;
  }
}

}  // namespace

cudaError_t launchCacheWrite(Attention const& a, cudaStream_t stream) {
  HlaAttentionParams const& p = a.params;
  constexpr int32_t kElements = 8;  // of 2 bytes, in a word
  bool const values_apart = p.value_cache != nullptr;
  CacheWrite const keys{p.write_key_cache ? p.k : nullptr, p.key_cache, p.cache_capacity,
                        p.qk_head_dim / kElements};
  CacheWrite const values{values_apart ? p.v : nullptr, p.value_cache, p.cache_capacity,
                          p.v_head_dim / kElements};
  if (!writesCache(p)) return cudaSuccess;
  dim3 const grid(static_cast<unsigned>(p.seq), static_cast<unsigned>(p.batch));
  return launch({"hla_cache_write", grid, kThreads}, stream, cacheWriteKernel, p, keys, values);
}

cudaError_t launchCombine(Attention const& a, cudaStream_t stream) {
  HlaAttentionParams const& p = a.params;
  dim3 const grid(static_cast<unsigned>(p.seq), static_cast<unsigned>(p.batch),
                  static_cast<unsigned>(ceilDiv(p.heads * (p.v_head_dim / 4), kThreads)));
  auto* const kernel =
      p.data_type == DataType::kBFloat16 ? combineKernel<__nv_bfloat16> : combineKernel<__half>;
  return launch({"hla_combine", grid, kThreads, 0, a.overlaps}, stream, kernel, a);
}

}  // namespace r1trt::kernels::hla
