// Kernels with one planted defect each, and correct twins: what the host layer must report, and what it must
// not. `defects NAME...` prints "NAME good" or "NAME wrong" for each, or ends by the detector's own report.
#include <cstdio>
#include <cstdlib>

#include "common/mma.cuh"
#include "common/numeric.cuh"
#include "named_cases.h"

namespace {

using namespace r1trt::kernels;

constexpr int kThreads = 64;

struct Row {
  int value[kThreads];
};

__global__ void reverse(int* out, bool synced) {
  R1TRT_SHARED(Row, row);
  int const i = static_cast<int>(threadIdx.x);
  row.value[i] = i;
  if (synced) __syncthreads();
  out[i] = row.value[kThreads - 1 - i];
}

__global__ void swapLanes(int* out, bool synced) {
  R1TRT_SHARED(Row, row);
  int const i = static_cast<int>(threadIdx.x);
  row.value[i] = kThreads - 1 - i;
  if (synced) __syncwarp();
  out[i] = row.value[i ^ 1] + ((i & 1) != 0 ? -1 : 1);
}

__global__ void divergentBarrier(int* out) {
  if (threadIdx.x < 48) __syncthreads();
  out[threadIdx.x] = kThreads - 1 - static_cast<int>(threadIdx.x);
}

__global__ void twoBarriers(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = kThreads - 1 - static_cast<int>(threadIdx.x);
}

__global__ void exitBeforeBarrier(int* out) {
  out[threadIdx.x] = kThreads - 1 - static_cast<int>(threadIdx.x);
  if (threadIdx.x == 5) return;
  __syncthreads();
}

__global__ void shuffleMask(int* out) {
  int const i = static_cast<int>(threadIdx.x);
  if ((i & 31) < 16) out[i] = __shfl_xor_sync(kAllLanes, i, 1);
}

__global__ void sharedOutOfBounds(int* out, int distance) {
  R1TRT_SHARED(Row, row);
  int const i = static_cast<int>(threadIdx.x);
  int* const values = row.value;
  values[i + distance] = i;
  __syncthreads();
  out[i] = kThreads - 1 - i;
}

__global__ void globalOutOfBounds(int* out, int const* in, int distance) {
  int const i = static_cast<int>(threadIdx.x);
  out[i] = in[i + distance];
}

__global__ void uninitialized(int* out, int written) {
  R1TRT_SHARED(Row, row);
  int const i = static_cast<int>(threadIdx.x);
  if (i < written) row.value[i] = kThreads - 1 - i;
  __syncthreads();
  out[i] = row.value[i];
}

__global__ void misaligned(int* out, int offset) {
  int const i = static_cast<int>(threadIdx.x);
  out[i] = kThreads - 1 - i;
  __syncthreads();
  auto* vectors = reinterpret_cast<uint4*>(out + offset);
  if (i < 8) vectors[i] = vectors[i];
}

__global__ void addAcrossBlocks(int* out, bool atomic) {
  if (threadIdx.x == 0) {
    if (atomic) {
      atomicAdd(&out[0], 1);
    } else {
      out[0] += 1;
    }
  }
}

// Runs the body in every thread of a grid's last block to come here, with all other blocks' writes visible.
// `ticket` is 0 before the launch and after it.
__device__ __forceinline__ bool isLastBlock(uint32_t* ticket, uint32_t blocks) {
  __syncthreads();
  bool last = false;
  if (threadIdx.x == 0) {
    last = __atomic_fetch_add(ticket, 1U, __ATOMIC_ACQ_REL) == blocks - 1;
    if (last) *ticket = 0;
  }
  return __syncthreads_or(last ? 1 : 0) != 0;
}

__global__ void ticket(int* out, int* parts, uint32_t* counter, bool counted) {
  if (threadIdx.x == 1) parts[blockIdx.x] = 1;
  bool const last = counted ? isLastBlock(counter, gridDim.x) : blockIdx.x == gridDim.x - 1;
  if (!last || threadIdx.x != 0) return;
  for (unsigned i = 0; i < gridDim.x; ++i) out[0] += parts[i];
}

__global__ void earlyStart(int* out, int const* in, bool waits) {
  if (waits) waitForLastGrid();
  out[threadIdx.x] = in[kThreads - 1 - threadIdx.x];
}

// Three tiles through two buffers, as the kernels' pipelines do it.
__global__ void pipeline(int* out, int const* in, bool waits, bool frees) {
  R1TRT_DYNAMIC_SHARED(memory);
  auto* buffer = reinterpret_cast<int4*>(memory);
  int const i = static_cast<int>(threadIdx.x);
  auto const* tiles = reinterpret_cast<int4 const*>(in);
  int sum = 0;
  copyAsync16(buffer + i, tiles + i, true);
  copyCommit();
  for (int tile = 0; tile < 3; ++tile) {
    if (tile < 2)
      copyAsync16(buffer + (tile + 1) % 2 * kThreads + i, tiles + (tile + 1) * kThreads + i, true);
    copyCommit();
    if (waits) copyWait<1>();
    __syncthreads();
    sum += buffer[tile % 2 * kThreads + kThreads - 1 - i].x;
    if (frees) __syncthreads();
  }
  copyWait<0>();
  out[i] = sum;
}

template <class T>
struct Matrices {
  T a[16 * 32], b[8 * 32];
};

// D = A B^T by the fragments that ldmatrix gives; `twisted` exchanges two of A's, a wrong lane map.
template <class T>
__global__ void multiply(float* d_out, T const* a_in, T const* b_in, bool twisted) {
  R1TRT_SHARED(Matrices<T>, tile);
  constexpr int kK = Mma<T>::kK;
  int const lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 16 * kK; i += kWarpSize) tile.a[i] = a_in[i];
  for (int i = lane; i < 8 * kK; i += kWarpSize) tile.b[i] = b_in[i];
  __syncwarp();
  uint32_t a[4], b[4];
  ldmatrixX4(a, tile.a + (lane & 15) * kK + (lane >> 4) * (kK / 2));
  ldmatrixX4(b, tile.b + (lane & 7) * kK + ((lane >> 3) & 1) * (kK / 2));
  if (twisted) std::swap(a[1], a[2]);
  uint32_t const pair[2] = {b[0], b[1]};
  float d[4] = {};
  Mma<T>::run(d, a, pair);
  for (int i = 0; i < 4; ++i) d_out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

template <class T>
__global__ void transpose(T* out, T const* in) {
  R1TRT_SHARED(Matrices<T>, tile);
  int const lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += kWarpSize) tile.a[i] = in[i];
  __syncwarp();
  uint32_t r[4];
  ldmatrixX4Transposed(r, tile.a + lane * 8);
  for (int m = 0; m < 4; ++m) {
    for (int j = 0; j < 2; ++j) {
      uint16_t const bits = static_cast<uint16_t>(r[m] >> (16 * j));
      std::memcpy(static_cast<void*>(&out[m * 64 + lane / 4 * 8 + lane % 4 * 2 + j]), &bits, 2);
    }
  }
}

template <class T>
bool multiplies(bool twisted) {
  constexpr int kK = Mma<T>::kK;
  T a[16 * kK], b[8 * kK];
  float d[16 * 8];
  for (int i = 0; i < 16 * kK; ++i) a[i] = fromFloat<T>(static_cast<float>(i * 7 % 13 - 6) / 4);
  for (int i = 0; i < 8 * kK; ++i) b[i] = fromFloat<T>(static_cast<float>(i * 5 % 11 - 5) / 2);
  if (launch({"multiply", 1, 32}, nullptr, multiply<T>, d, a, b, twisted) != cudaSuccess) return false;
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      float want = 0;
      for (int k = 0; k < kK; ++k) want += toFloat(a[m * kK + k]) * toFloat(b[n * kK + k]);
      if (d[m * 8 + n] != want) return false;
    }
  }
  return true;
}

bool transposes() {
  __half in[256], out[256];
  for (int i = 0; i < 256; ++i) in[i] = fromFloat<__half>(static_cast<float>(i));
  if (launch({"transpose", 1, 32}, nullptr, transpose<__half>, out, in) != cudaSuccess) return false;
  for (int i = 0; i < 256; ++i) {
    if (toFloat(out[i]) != static_cast<float>(i / 64 * 64 + i % 8 * 8 + i % 64 / 8)) return false;
  }
  return true;
}

int* memory() {
  return static_cast<int*>(aligned_alloc(256, 4096));
}

template <class... Parameters, class... Arguments>
bool mirrors(void (*kernel)(int*, Parameters...), Arguments... arguments) {
  int* out = memory();
  bool good = launch({"mirrors", 1, kThreads}, nullptr, kernel, out, arguments...) == cudaSuccess;
  for (int i = 0; i < kThreads && good; ++i) good = out[i] == kThreads - 1 - i;
  free(out);
  return good;
}

bool counts(bool atomic) {
  int total = 0;
  launch({"counts", 8, kThreads}, nullptr, addAcrossBlocks, &total, atomic);
  return total == 8;
}

bool tickets(bool counted) {
  int total = 0, parts[8] = {};
  uint32_t counter = 0;
  launch({"ticket", 8, kThreads}, nullptr, ticket, &total, parts, &counter, counted);
  return total == 8 && counter == 0;
}

bool pipelines(bool waits, bool frees) {
  int *in = memory(), *out = memory();
  for (int i = 0; i < 1024; ++i) in[i] = i;
  bool good = launch({"pipeline", 1, kThreads, 2 * kThreads * 16}, nullptr, pipeline, out, in, waits,
                     frees) == cudaSuccess;
  for (int i = 0; i < kThreads && good; ++i) {
    int const mirror = kThreads - 1 - i;
    good = out[i] == 4 * (3 * mirror + 3 * kThreads);
  }
  free(in);
  free(out);
  return good;
}

bool startsEarly(bool waits) {
  int *in = memory(), *out = memory();
  LaunchShape const shape{"early_start", 1, kThreads, 0, true};
  bool const good = launch(shape, nullptr, earlyStart, out, in, waits) == cudaSuccess;
  if (!good) fprintf(stderr, "%s\n", simt::lastError());
  free(in);
  free(out);
  return good;
}

bool readsBeyond(int distance) {
  int *in = memory(), *out = memory();
  for (int i = 0; i < 1024; ++i) in[i] = 1023 - i - 960;
  launch({"beyond", 1, kThreads}, nullptr, globalOutOfBounds, out, in, distance);
  bool good = out[0] == 63 - distance;
  free(in);
  free(out);
  return good;
}

NamedCases const kCases = {
    {"barrier", [] { return mirrors(reverse, true); }},
    {"no_barrier", [] { return mirrors(reverse, false); }},
    {"syncwarp", [] { return mirrors(swapLanes, true); }},
    {"no_syncwarp", [] { return mirrors(swapLanes, false); }},
    {"divergent_barrier", [] { return mirrors(divergentBarrier); }},
    {"two_barriers", [] { return mirrors(twoBarriers); }},
    {"exit_before_barrier", [] { return mirrors(exitBeforeBarrier); }},
    {"shuffle_mask", [] { return mirrors(shuffleMask); }},
    {"shared_in_bounds", [] { return mirrors(sharedOutOfBounds, 0); }},
    {"shared_off_by_one", [] { return mirrors(sharedOutOfBounds, 1); }},
    {"global_in_bounds", [] { return readsBeyond(960); }},
    {"global_off_by_one", [] { return readsBeyond(961); }},
    {"initialized", [] { return mirrors(uninitialized, kThreads); }},
    {"uninitialized", [] { return mirrors(uninitialized, kThreads - 1); }},
    {"aligned", [] { return mirrors(misaligned, 4); }},
    {"misaligned", [] { return mirrors(misaligned, 1); }},
    {"atomic_add", [] { return counts(true); }},
    {"race_between_blocks", [] { return counts(false); }},
    {"last_block", [] { return tickets(true); }},
    {"no_ticket", [] { return tickets(false); }},
    {"early_start", [] { return startsEarly(true); }},
    {"no_wait_for_the_grid", [] { return startsEarly(false); }},
    {"pipeline", [] { return pipelines(true, true); }},
    {"no_copy_wait", [] { return pipelines(false, true); }},
    {"buffer_not_freed", [] { return pipelines(true, false); }},
    {"mma_bf16", [] { return multiplies<__nv_bfloat16>(false); }},
    {"mma_fp16", [] { return multiplies<__half>(false); }},
    {"mma_e4m3", [] { return multiplies<__nv_fp8_e4m3>(false); }},
    {"wrong_lane_map", [] { return multiplies<__nv_bfloat16>(true); }},
    {"ldmatrix_transposed", transposes},
};

}  // namespace

int main(int count, char** arguments) {
  return runNamed(kCases, count, arguments);
}
