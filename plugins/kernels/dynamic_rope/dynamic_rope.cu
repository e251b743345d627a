// One block per token (or per part of a token's heads): the token's cosines and sines are computed once, into
// shared memory, and all of its heads are read and written once, 16 bytes at a time; the first of them are
// read meanwhile. Bytes: 2 (H + Hkv) d elements a token, twice that of the keys with a cache; they are the
// bound.
#include "dynamic_rope.h"

#include "../common/numeric.cuh"

namespace r1trt::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxPairs = 512;

struct Tables {
  float cosine[kMaxPairs];
  float sine[kMaxPairs];
};

// Cosine and sine of position * inv_freq, times attention factor and temperature.
__device__ __forceinline__ void fillTables(DynamicRopeParams const& p, int64_t position, Tables& tables) {
  float const pos = static_cast<float>(position);
  float factor = p.attention_factor;
  if (p.original_max_position > 0 && position >= p.original_max_position) {
    factor *= 1.0F + p.temperature_alpha * logf(pos / static_cast<float>(p.original_max_position));
  }
  for (int i = static_cast<int>(threadIdx.x); i < p.rotary_dim / 2; i += kThreads) {
    float const freq = p.inv_freq[i];
    float const angle = pos * freq;
    // NOTES: the product's rounding is up to 0.004 rad at position 100,000; a rotation by it, to the second
    // order, takes it back.
    float const rest = fmaf(pos, freq, -angle), along = 1.0F - 0.5F * rest * rest;
    float sine = 0.0F, cosine = 0.0F;
    sincosf(angle, &sine, &cosine);
    tables.cosine[i] = (along * cosine - rest * sine) * factor;
    tables.sine[i] = (along * sine + rest * cosine) * factor;
  }
}

// Where one head of one token is read from.
template <class T>
__device__ __forceinline__ T const* sourceOf(DynamicRopeParams const& p, int64_t token, int head) {
  if (head < p.heads) return static_cast<T const*>(p.q) + (token * p.heads + head) * p.head_dim;
  return static_cast<T const*>(p.k) + (token * p.kv_heads + head - p.heads) * p.head_dim;
}

// Where it is written to; either may be null.
template <class T>
struct Targets {
  T* pointer[2];
};

template <class T>
__device__ __forceinline__ Targets<T> targetsOf(DynamicRopeParams const& p, int64_t token, int head,
                                                int64_t cache_slot) {
  if (head < p.heads) return {static_cast<T*>(p.q_out) + (token * p.heads + head) * p.head_dim, nullptr};
  int const kv_head = head - p.heads;
  Targets<T> result{nullptr, nullptr};
  if (p.k_out != nullptr) {
    result.pointer[0] = static_cast<T*>(p.k_out) + (token * p.kv_heads + kv_head) * p.head_dim;
  }
  if (cache_slot >= 0) {
    int64_t const row = (token / p.seq * p.kv_heads + kv_head) * p.cache_capacity + cache_slot;
    result.pointer[1] = static_cast<T*>(p.key_cache) + row * p.head_dim;
  }
  return result;
}

template <class T>
__device__ __forceinline__ void rotatePair(T& first, T& second, float cosine, float sine) {
  float const a = toFloat(first), b = toFloat(second);
  first = fromFloat<T>(a * cosine - b * sine);
  second = fromFloat<T>(b * cosine + a * sine);
}

// What a thread has of one head at a time: kVec elements of each half, or kVec neighbours where pairs are
// interleaved; of the elements that do not rotate, kVec.
template <class T, int kVec, bool kInterleaved>
struct Piece {
  int head, item;
  Vector<T, kVec> first, second;

  __device__ static int rotated(DynamicRopeParams const& p) {
    return p.rotary_dim / (kInterleaved ? kVec : 2 * kVec);
  }
  __device__ static int perHead(DynamicRopeParams const& p) {
    return rotated(p) + (p.head_dim - p.rotary_dim) / kVec;
  }
  __device__ __forceinline__ bool rotates(DynamicRopeParams const& p) const { return item < rotated(p); }
  __device__ __forceinline__ int offset(DynamicRopeParams const& p) const {
    return rotates(p) ? item * kVec : p.rotary_dim + (item - rotated(p)) * kVec;
  }

  __device__ __forceinline__ void load(DynamicRopeParams const& p, int64_t token, int index) {
    head = index / perHead(p), item = index % perHead(p);
    T const* const source = sourceOf<T>(p, token, head);
    first = *reinterpret_cast<Vector<T, kVec> const*>(source + offset(p));
    if (!kInterleaved && rotates(p)) {
      second = *reinterpret_cast<Vector<T, kVec> const*>(source + p.rotary_dim / 2 + offset(p));
    }
  }

  __device__ __forceinline__ void rotate(DynamicRopeParams const& p, Tables const& tables) {
    if (!rotates(p)) return;
#pragma unroll
    for (int i = 0; i < (kInterleaved ? kVec / 2 : kVec); ++i) {
      int const pair = kInterleaved ? item * (kVec / 2) + i : item * kVec + i;
      T& a = kInterleaved ? first.value[2 * i] : first.value[i];
      T& b = kInterleaved ? first.value[2 * i + 1] : second.value[i];
      rotatePair(a, b, tables.cosine[pair], tables.sine[pair]);
    }
  }

  __device__ __forceinline__ void store(DynamicRopeParams const& p, int64_t token, int64_t cache_slot) const {
    for (T* const target : targetsOf<T>(p, token, head, cache_slot).pointer) {
      if (target == nullptr) continue;
      *reinterpret_cast<Vector<T, kVec>*>(target + offset(p)) = first;
      if (!kInterleaved && rotates(p)) {
        *reinterpret_cast<Vector<T, kVec>*>(target + p.rotary_dim / 2 + offset(p)) = second;
      }
    }
  }
};

template <class T, int kVec, bool kInterleaved>
__global__ void __launch_bounds__(kThreads) dynamicRopeKernel(DynamicRopeParams const p) {
  using Piece = Piece<T, kVec, kInterleaved>;
  R1TRT_SHARED(Tables, tables);
  int64_t const token = blockIdx.x;
  int64_t const b = token / p.seq, s = token % p.seq;
  int const pieces = (p.heads + p.kv_heads) * Piece::perHead(p);
  int const step = static_cast<int>(gridDim.y) * kThreads;
  int index = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  // The first ones are on their way while the block computes cosines and sines.
  Piece piece;
  if (index < pieces) piece.load(p, token, index);
  int64_t const position = p.past_len[b] + s;
  fillTables(p, position, tables);
  __syncthreads();

  bool const cached =
      p.key_cache != nullptr && (p.seq_len == nullptr || s < p.seq_len[b]) && position < p.cache_capacity;
  int64_t const cache_slot = cached ? position : -1;
  while (index < pieces) {
    piece.rotate(p, tables);
    piece.store(p, token, cache_slot);
    index += step;
    if (index < pieces) piece.load(p, token, index);
  }
}

template <class T, int kVec, bool kInterleaved>
cudaError_t run(DynamicRopeParams const& p, cudaStream_t stream) {
  constexpr int64_t kEnoughBlocks = 512;
  int64_t const tokens = static_cast<int64_t>(p.batch) * p.seq;
  int64_t const vectors = static_cast<int64_t>(p.heads + p.kv_heads) * ceilDiv(p.head_dim, kVec);
  // Few tokens: their heads are spread over several blocks.
  unsigned const parts =
      tokens >= kEnoughBlocks ? 1U : static_cast<unsigned>(ceilDiv<int64_t>(vectors, kThreads));
  dim3 const grid(static_cast<unsigned>(tokens), parts < 64U ? parts : 64U);
  return launch({"dynamic_rope", grid, kThreads}, stream, dynamicRopeKernel<T, kVec, kInterleaved>, p);
}

template <class T>
cudaError_t runTyped(DynamicRopeParams const& p, cudaStream_t stream) {
  constexpr int kVec = kVectorSize<T>;
  bool const whole = p.head_dim % kVec == 0;
  if (p.interleaved) {
    return whole && p.rotary_dim % kVec == 0 ? run<T, kVec, true>(p, stream) : run<T, 2, true>(p, stream);
  }
  return whole && p.rotary_dim % (2 * kVec) == 0 ? run<T, kVec, false>(p, stream)
                                                 : run<T, 1, false>(p, stream);
}

cudaError_t check(DynamicRopeParams const& p) {
  bool const sizes = p.batch >= 0 && p.seq >= 0 && p.heads >= 0 && p.kv_heads >= 0 &&
                     p.heads + p.kv_heads > 0 && p.head_dim > 0 && p.rotary_dim > 0 &&
                     p.rotary_dim <= p.head_dim && p.rotary_dim % 2 == 0 && p.rotary_dim / 2 <= kMaxPairs &&
                     (!p.interleaved || p.head_dim % 2 == 0);
  bool const fits = static_cast<int64_t>(p.batch) * p.seq <= INT32_MAX;
  if (!sizes || !fits || (p.key_cache != nullptr && p.cache_capacity <= 0)) return cudaErrorInvalidValue;
  if (p.batch == 0 || p.seq == 0) return cudaSuccess;
  bool const queries = p.heads == 0 || (p.q != nullptr && p.q_out != nullptr);
  bool const keys = p.kv_heads == 0 || (p.k != nullptr && (p.k_out != nullptr || p.key_cache != nullptr));
  if (!queries || !keys || p.inv_freq == nullptr || p.past_len == nullptr)
    return cudaErrorInvalidDevicePointer;
  bool const aligned =
      aligned16(p.q) && aligned16(p.k) && aligned16(p.q_out) && aligned16(p.k_out) && aligned16(p.key_cache);
  return aligned ? cudaSuccess : cudaErrorInvalidDevicePointer;
}

}  // namespace

cudaError_t launchDynamicRope(DynamicRopeParams const& params, cudaStream_t stream) noexcept {
  if (cudaError_t const error = check(params); error != cudaSuccess) return error;
  if (params.batch == 0 || params.seq == 0) return cudaSuccess;
  switch (params.data_type) {
    case DataType::kFloat32:
      return runTyped<float>(params, stream);
    case DataType::kFloat16:
      return runTyped<__half>(params, stream);
    case DataType::kBFloat16:
      return runTyped<__nv_bfloat16>(params, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace r1trt::kernels
