// New keys and values into the cache; and the splits' parts put together.
//
// Bytes: the new keys and values read and written; of each row and branch the splits' outputs in FP32, dv
// each, and their sums. FLOPs: 2 dv a split. The bytes, or with few rows the launches, are the bound.
#include "../common/numeric.cuh"
#include "stages.cuh"

namespace r1trt::kernels::hla {
namespace {

constexpr int kThreads = 256;
constexpr int kPartsAtOnce = 4;
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

// The splits' shares of one branch of one row's softmax, a lane two of them.
struct Shares {
  static_assert(kMaxSplits == 2 * kWarpSize, "two of a lane");
  float mine[2];

  // Of all, `weight`.
  __device__ __forceinline__ void find(float const* lse, int splits, float weight) {
    int const lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int const split = lane + i * kWarpSize;
      mine[i] = split < splits ? lse[split] : -INFINITY;
    }
    float const largest = warpMax(fmaxf(mine[0], mine[1]));
    float const offset = largest == -INFINITY ? 0.0F : largest;
#pragma unroll
    for (float& share : mine) share = fastExp2(share - offset);
    float const total = warpSum(mine[0] + mine[1]), factor = total > 0.0F ? weight / total : 0.0F;
#pragma unroll
    for (float& share : mine) share *= factor;
  }

  // By all lanes of a warp; of a split that is not there anything.
  __device__ __forceinline__ float of(int split) const {
    float const low = __shfl_sync(kAllLanes, mine[0], split % kWarpSize);
    float const high = __shfl_sync(kAllLanes, mine[1], split % kWarpSize);
    return split < kWarpSize ? low : high;
  }
};

// A thread's part of a row: 4 of its columns, of every `step`-th split from `first` on.
struct Part {
  int column, first, step;
};

// One branch: the thread's splits by their shares. By all lanes of a warp, which are a row's.
__device__ __forceinline__ void addBranch(Attention const& a, int64_t row, float weight, Part const& part,
                                          float (&sum)[4]) {
  auto const* const outputs = reinterpret_cast<Vector<float, 4> const*>(
      a.partial + row * a.splits * a.params.v_head_dim + part.column);
  int const pitch = a.params.v_head_dim / 4;
  Shares shares;
  for (int begin = part.first; begin - part.first < a.splits; begin += kPartsAtOnce * part.step) {
    Vector<float, 4> values[kPartsAtOnce] = {};  // by loads that wait for nothing
#pragma unroll
    for (int i = 0; i < kPartsAtOnce; ++i) {
      int const split = begin + i * part.step;
      if (split < a.splits) values[i] = outputs[split * pitch];  // one without a key is there, too
    }
    if (begin == part.first) shares.find(a.partial_lse + row * a.splits, a.splits, weight);
#pragma unroll
    for (int i = 0; i < kPartsAtOnce; ++i) {
      float const share = shares.of(begin + i * part.step);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] += share * values[i].value[j];
    }
  }
}

struct Sums {
  Vector<float, 4> of[kThreads];
};

// What a row's threads have is added by those of the first split. By all threads.
__device__ __forceinline__ void addParts(Part const& part, int columns, float (&sum)[4]) {
  R1TRT_SHARED(Sums, sums);
  int const thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int j = 0; j < 4; ++j) sums.of[thread].value[j] = sum[j];
  __syncthreads();
  if (part.first != 0) return;
  for (int other = 1; other < part.step; ++other) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[j] += sums.of[thread + other * columns].value[j];
  }
}

// A row's threads are `parts` times those of its columns.
template <class T>
__global__ void __launch_bounds__(kThreads) combineKernel(Attention const a, int const parts) {
  HlaAttentionParams const& p = a.params;
  int const columns = p.v_head_dim / 4, of_row = columns * parts, thread = static_cast<int>(threadIdx.x);
  int const place = static_cast<int>(blockIdx.x) * (kThreads / of_row) + thread / of_row;
  int64_t const s = place / p.heads, b = blockIdx.y;
  int const head = place % p.heads;
  Part const part{thread % columns * 4, thread % of_row / columns, parts};
  waitForLastGrid();
  bool const exists = s < tokensOf(p, b);
  float sum[4] = {};
  if (exists) {
    int64_t const in_head = s * a.group + head % a.group;
    int64_t const row = (b * p.kv_heads + head / a.group) * p.seq * a.group + in_head;
    int64_t const all_rows = static_cast<int64_t>(p.batch) * p.kv_heads * p.seq * a.group;
    float const lam = lamOf(p, b, s, head);
    if (lam > 0.0F) addBranch(a, row, lam, part, sum);
    if (lam < 1.0F) addBranch(a, all_rows + row, 1.0F - lam, part, sum);
  }
  addParts(part, columns, sum);
  if (!exists || part.first != 0) return;
  Vector<T, 4> result;
#pragma unroll
  for (int j = 0; j < 4; ++j) result.value[j] = fromFloat<T>(sum[j]);
  T* const y = static_cast<T*>(p.y) + ((b * p.seq + s) * p.heads + head) * p.v_head_dim;
  *reinterpret_cast<Vector<T, 4>*>(y + part.column) = result;
}

// So many that each has as many splits as it loads at once, but whole warps, and at most a block's threads.
int partsOf(int splits, int columns) {
  int parts = columns < kWarpSize ? kWarpSize / columns : 1;
  while (parts * kPartsAtOnce < splits && 2 * parts * columns <= kThreads) parts *= 2;
  return parts;
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
  int const columns = p.v_head_dim / 4, parts = partsOf(a.splits, columns);
  int const rows = kThreads / (columns * parts);  // of a block
  dim3 const grid(static_cast<unsigned>(ceilDiv(p.seq * p.heads, rows)), static_cast<unsigned>(p.batch));
  auto* const kernel =
      p.data_type == DataType::kBFloat16 ? combineKernel<__nv_bfloat16> : combineKernel<__half>;
  return launch({"hla_combine", grid, kThreads, 0, a.overlaps}, stream, kernel, a, parts);
}

}  // namespace r1trt::kernels::hla
