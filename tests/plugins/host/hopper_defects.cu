// Hopper's instructions on the host layer: against plain loops, and a pipeline of them with one planted
// defect each. `hopper_defects NAME...` prints "NAME good" or "NAME wrong" for each, or ends by the layer's
// report.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "common/hopper.cuh"
#include "common/mma.cuh"
#include "common/numeric.cuh"
#include "common/tensor_map.h"
#include "named_cases.h"

namespace {

using namespace r1trt::kernels;
using namespace r1trt::kernels::hopper;
using Bf16 = __nv_bfloat16;

constexpr int kDynamicShared = 160 << 10;

__device__ char* tilesOf(char* memory) {
  auto const address = reinterpret_cast<uintptr_t>(memory);
  return reinterpret_cast<char*>((address + kTileAlignment - 1) / kTileAlignment * kTileAlignment);
}

template <class T>
struct TypeOf;
template <>
struct TypeOf<Bf16> {
  static constexpr CUtensorMapDataType kMap = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  static void multiply(float (&d)[64], uint64_t a, uint64_t b, int more) { multiplyBf16(d, a, b, more); }
  static void values(float (&d)[64], uint32_t const (&a)[4], uint64_t b) { multiplyValuesBf16(d, a, b, 0); }
};
template <>
struct TypeOf<__half> {
  static constexpr CUtensorMapDataType kMap = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  static void multiply(float (&d)[64], uint64_t a, uint64_t b, int more) { multiplyF16(d, a, b, more); }
  static void values(float (&d)[64], uint32_t const (&a)[4], uint64_t b) { multiplyValuesF16(d, a, b, 0); }
};
template <>
struct TypeOf<__nv_fp8_e4m3> {
  static constexpr CUtensorMapDataType kMap = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  static void multiply(float (&d)[64], uint64_t a, uint64_t b, int more) { multiplyE4m3(d, a, b, more); }
};

// Small numbers, whose sums of products are exact in FP32.
template <class T>
std::vector<T> numbers(int count, int by) {
  std::vector<T> result(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    result[static_cast<size_t>(i)] = fromFloat<T>(static_cast<float>(i * by % 13 - 6) / 4);
  }
  return result;
}

template <class T>
CUtensorMap mapOf(T const* data, int rows, int columns, int box_rows) {
  CUtensorMap map{};
  MatrixMap const matrix{
      data, TypeOf<T>::kMap, sizeof(T), rows, columns, box_rows, static_cast<int>(kSwizzleBytes / sizeof(T))};
  if (encodeTensorMap(matrix, map) != cudaSuccess) abort();
  return map;
}

// ---- boxes

struct Box {
  int column, row, matrix, bytes;
};

__global__ void readBox(uint16_t* out, CUtensorMap map, Box box, bool stacked) {
  R1TRT_DYNAMIC_SHARED(memory);
  R1TRT_SHARED(Barrier, full);
  char* const tile = tilesOf(memory);
  if (threadIdx.x == 0) {
    initBarrier(&full, 1);
    fenceBarrierInit();
    arriveExpecting(&full, static_cast<uint32_t>(box.bytes));
    if (stacked) {
      loadBox(tile, &map, &full, box.column, box.row, box.matrix);
    } else {
      loadTile(tile, &map, &full, box.column, box.row);
    }
  }
  __syncthreads();
  wait(&full, 0);
  for (int i = static_cast<int>(threadIdx.x); i < box.bytes / 2; i += 32) {
    // Row r has its sixteenth-byte piece c at piece c ^ r % 8.
    int const row = i / 64, piece = i % 64 / 8 ^ row % 8;
    out[i] = reinterpret_cast<uint16_t const*>(tile)[row * 64 + piece * 8 + i % 8];
  }
}

// Boxes that begin before a matrix, end behind it, and lie outside of it, from rows that are apart.
bool boxes(bool stacked) {
  constexpr int kMatrices = 3, kRows = 21, kColumns = 72, kPitch = 88, kBoxRows = 8;
  std::vector<uint16_t> in(kMatrices * kRows * kPitch);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i + 1);
  CUtensorMap map{};
  StackMap const stack{in.data(),
                       CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                       {kColumns, kRows, kMatrices},
                       {kPitch * 2, kRows * kPitch * 2},
                       {64, kBoxRows, 2}};
  MatrixMap const matrix{in.data(), CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, kRows, kPitch, kBoxRows, 64};
  cudaError_t error = stacked ? encodeStackMap(stack, map) : encodeTensorMap(matrix, map);
  int const columns = stacked ? kColumns : kPitch, depth = stacked ? 2 : 1;
  for (int column : {0, -5, 8, 40, 200}) {
    for (int row : {0, -3, 17, 40}) {
      for (int first : {0, 2}) {
        if (!stacked && first != 0) continue;
        std::vector<uint16_t> out(kBoxRows * 64 * 2, 9);
        Box const box{column, row, first, kBoxRows * 128 * depth};
        if (error == cudaSuccess) {
          error = launch({"readBox", 1, 32, kDynamicShared}, nullptr, readBox, out.data(), map, box, stacked);
        }
        for (int i = 0; i < kBoxRows * 64 * depth && error == cudaSuccess; ++i) {
          int const z = first + i / 512, y = row + i / 64 % kBoxRows, x = column + i % 64;
          bool const inside = z < kMatrices && y >= 0 && y < kRows && x >= 0 && x < columns;
          uint16_t const want = inside ? in[static_cast<size_t>((z * kRows + y) * kPitch + x)] : 0;
          if (out[static_cast<size_t>(i)] != want) return false;
        }
      }
    }
  }
  return error == cudaSuccess;
}

bool refusesMaps() {
  alignas(16) static char data[4096];
  CUtensorMap map;
  auto refuses = [&](MatrixMap const& matrix) { return encodeTensorMap(matrix, map) != cudaSuccess; };
  auto const type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  return !refuses({data, type, 1, 8, 128, 8, 128}) && refuses({data + 8, type, 1, 8, 128, 8, 128}) &&
         refuses({data, type, 1, 8, 120, 8, 128}) && refuses({data, type, 1, 8, 128, 257, 128}) &&
         refuses({data, type, 1, 8, 256, 8, 144}) && refuses({data, type, 1, 0, 128, 8, 128});
}

// ---- a pipeline: D[64, 128] = A B^T by steps of 128 bytes, through a ring of two stages

enum Defect {
  kNone,
  kNoFullWait,
  kNoEmptyWait,
  kWrongParity,
  kFewBytes,
  kManyBytes,
  kEarlyRelease,
  kNoProductWait,
  kReadsTooSoon,
  kNoFence,
  kNotSwizzled,
  kWrongOffset,
  kWrongRows,
  kTwoArrivals,
  kNoInit,
  kOverwritten,
  kLaneDescriptor,
};

constexpr int kStages = 2, kRows = 64, kColumns = 128, kLoaders = 128;
constexpr int kBytesA = kRows * kSwizzleBytes, kBytesB = kColumns * kSwizzleBytes;

struct Ring {
  alignas(128) Barrier full[kStages], empty[kStages];
};

struct Pipeline {
  CUtensorMap a, b;
  float* d;
  int steps, step_columns;
  Defect defect;
};

__device__ void load(Pipeline const& p, Ring& ring, char* tiles) {
  for (int step = 0; step < p.steps; ++step) {
    int const stage = step % kStages;
    uint32_t const parity = step / kStages % 2;
    char* const tile = tiles + stage * (kBytesA + kBytesB);
    if (p.defect != kNoEmptyWait) wait(&ring.empty[stage], p.defect == kWrongParity ? parity : parity ^ 1);
    int const wrong = p.defect == kFewBytes ? -128 : p.defect == kManyBytes ? 128 : 0;
    arriveExpecting(&ring.full[stage], static_cast<uint32_t>(kBytesA + kBytesB + wrong));
    loadTile(tile, &p.a, &ring.full[stage], step * p.step_columns, 0);
    loadTile(tile + kBytesA, &p.b, &ring.full[stage], step * p.step_columns, 0);
  }
}

__device__ uint64_t descriptorOf(Defect defect, char const* tile, int offset) {
  uint64_t const good = tileDescriptor(tile, offset);
  if (defect == kNotSwizzled) return good ^ 1ULL << 62;
  if (defect == kWrongRows) return good ^ 0x60ULL << 32;
  if (defect == kWrongOffset) return tileDescriptor(tile, offset / 2 / 16 * 16);
  if (defect == kLaneDescriptor && threadIdx.x % 32 == 7) return good + 2;
  return good;
}

template <class T>
__device__ void multiply(Pipeline const& p, Ring& ring, char const* tiles) {
  int const thread = static_cast<int>(threadIdx.x) - kLoaders;
  float sum[64];
  for (int step = 0; step < p.steps; ++step) {
    int const stage = step % kStages;
    char const* const tile = tiles + stage * (kBytesA + kBytesB);
    bool const leads = thread % 32 == 0;
    if (p.defect != kNoFullWait) wait(&ring.full[stage], step / kStages % 2);
    if (p.defect != kNoFence || step == 0) fenceProducts();
    for (int offset = 0; offset < kSwizzleBytes; offset += 32) {
      TypeOf<T>::multiply(sum, descriptorOf(p.defect, tile, offset), tileDescriptor(tile + kBytesA, offset),
                          step > 0 || offset > 0);
    }
    commitProducts();
    if (leads && p.defect == kEarlyRelease) arrive(&ring.empty[stage]);
    if (p.defect != kNoProductWait && (p.defect != kReadsTooSoon || step < p.steps - 1)) waitProducts<0>();
    if (leads && p.defect != kEarlyRelease) arrive(&ring.empty[stage]);
    if (leads && p.defect == kTwoArrivals) arrive(&ring.empty[stage]);
  }
  int const row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
  for (int i = 0; i < 64; ++i) {
    p.d[(row + i / 2 % 2 * 8) * kColumns + i / 4 * 8 + column + i % 2] = sum[i];
  }
  if (p.defect == kReadsTooSoon) waitProducts<0>();
}

template <class T>
__global__ void pipeline(Pipeline p) {
  R1TRT_DYNAMIC_SHARED(memory);
  R1TRT_SHARED(Ring, ring);
  char* const tiles = tilesOf(memory);
  if (threadIdx.x == 0 && p.defect != kNoInit) {
    for (int stage = 0; stage < kStages; ++stage) {
      initBarrier(&ring.full[stage], 1);
      initBarrier(&ring.empty[stage], 4);
    }
    fenceBarrierInit();
  }
  if (threadIdx.x == 0 && p.defect == kOverwritten) ring.empty[1] = 0;
  __syncthreads();
  if (threadIdx.x == 0) load(p, ring, tiles);
  if (threadIdx.x >= kLoaders) multiply<T>(p, ring, tiles);
}

template <class T, Defect kDefect = kNone>
bool pipelines() {
  // The last step's columns end inside its box.
  constexpr int kWidth = kSwizzleBytes / sizeof(T), kSteps = 5, kK = kSteps * kWidth - 16;
  std::vector<T> const a = numbers<T>(kRows * kK, 7), b = numbers<T>(kColumns * kK, 5);
  std::vector<float> d(kRows * kColumns);
  Pipeline const p{mapOf(a.data(), kRows, kK, kRows),
                   mapOf(b.data(), kColumns, kK, kColumns),
                   d.data(),
                   kSteps,
                   kWidth,
                   kDefect};
  if (launch({"pipeline", 1, 256, kDynamicShared}, nullptr, pipeline<T>, p) != cudaSuccess) return false;
  for (int m = 0; m < kRows; ++m) {
    for (int n = 0; n < kColumns; ++n) {
      float want = 0;
      for (int k = 0; k < kK; ++k) {
        want += toFloat(a[static_cast<size_t>(m * kK + k)]) * toFloat(b[static_cast<size_t>(n * kK + k)]);
      }
      if (!(d[static_cast<size_t>(m * kColumns + n)] == want)) return false;
    }
  }
  return true;
}

// ---- A from registers, B in rows of K

constexpr int kValueRows = 32, kGroupBytes = kValueRows * kSwizzleBytes;

// Whether B's rows become 0 by stores before they are multiplied.
enum Zeros { kNoZeros, kZeros, kZerosNoFence };

template <class T>
__global__ void multiplyRows(float* d_out, T const* a_in, CUtensorMap map, int first, Zeros zeros) {
  R1TRT_DYNAMIC_SHARED(memory);
  R1TRT_SHARED(Barrier, full);
  char* const tile = tilesOf(memory);
  if (threadIdx.x == 0) {
    initBarrier(&full, 1);
    arriveExpecting(&full, 2 * kGroupBytes);
    for (int group = 0; group < 2; ++group) loadTile(tile + group * kGroupBytes, &map, &full, group * 64, 0);
  }
  __syncthreads();
  wait(&full, 0);
  int const thread = static_cast<int>(threadIdx.x);
  if (zeros != kNoZeros) {
    for (int i = thread; i < 256; i += 128) {
      char* const rows = tile + i / 128 * kGroupBytes + first * kSwizzleBytes;
      *reinterpret_cast<uint4*>(rows + i % 128 * 16) = uint4{};
    }
    if (zeros != kZerosNoFence) fenceStores();
    __syncthreads();
  }
  int const row = thread / 32 * 16 + thread % 32 / 4, k = thread % 4 * 2;
  uint32_t a[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&a[i], a_in + (row + i % 2 * 8) * 16 + k + i / 2 * 8, 4);
  float sum[64];
  fenceProducts();
  TypeOf<T>::values(sum, a, rowsDescriptor(tile, first, kGroupBytes));
  commitProducts();
  waitProducts<0>();
  for (int i = 0; i < 64; ++i) d_out[(row + i / 2 % 2 * 8) * 128 + i / 4 * 8 + k + i % 2] = sum[i];
}

template <class T, Zeros kKind = kNoZeros>
bool multipliesRows() {
  std::vector<T> const a = numbers<T>(64 * 16, 7), b = numbers<T>(kValueRows * 128, 5);
  CUtensorMap const map = mapOf(b.data(), kValueRows, 128, kValueRows);
  for (int first : {0, 16}) {
    std::vector<float> d(64 * 128);
    if (launch({"rows", 1, 128, kDynamicShared}, nullptr, multiplyRows<T>, d.data(), a.data(), map, first,
               kKind) != cudaSuccess) {
      return false;
    }
    for (int i = 0; i < 64 * 128; ++i) {
      float want = 0;
      for (int k = 0; k < 16 && kKind == kNoZeros; ++k) {
        want += toFloat(a[static_cast<size_t>(i / 128 * 16 + k)]) *
                toFloat(b[static_cast<size_t>((first + k) * 128 + i % 128)]);
      }
      if (d[static_cast<size_t>(i)] != want) return false;
    }
  }
  return true;
}

// ---- named barriers: warp 1 fills what warp 0 reads, and does not wait for it

enum Arrival { kNever, kBehind, kInFront };

__global__ void handOver(int* out, Arrival arrival) {
  struct Row {
    int value[32];
  };
  R1TRT_SHARED(Row, row);
  int const lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x >= 32) {
    if (arrival == kInFront) arriveSome<64>(3);
    row.value[lane] = lane;
    if (arrival == kBehind) arriveSome<64>(3);
    return;
  }
  syncSome<3, 64>();
  out[lane] = row.value[31 - lane];
}

bool handsOver(Arrival arrival) {
  int out[32];
  bool good = launch({"handOver", 1, 64}, nullptr, handOver, &out[0], arrival) == cudaSuccess;
  for (int i = 0; i < 32 && good; ++i) good = out[i] == 31 - i;
  return good;
}

NamedCases const kCases = {
    {"boxes", [] { return boxes(false); }},
    {"boxes_of_stacks", [] { return boxes(true); }},
    {"tensor_maps", refusesMaps},
    {"pipeline_bf16", pipelines<Bf16>},
    {"pipeline_fp16", pipelines<__half>},
    {"pipeline_e4m3", pipelines<__nv_fp8_e4m3>},
    {"rows_bf16", multipliesRows<Bf16>},
    {"rows_fp16", multipliesRows<__half>},
    {"rows_cleared", multipliesRows<Bf16, kZeros>},
    {"named_barrier", [] { return handsOver(kBehind); }},
    {"no_arrival", [] { return handsOver(kNever); }},
    {"early_arrival", [] { return handsOver(kInFront); }},
    {"no_proxy_fence", multipliesRows<Bf16, kZerosNoFence>},
    {"no_full_wait", pipelines<Bf16, kNoFullWait>},
    {"no_empty_wait", pipelines<Bf16, kNoEmptyWait>},
    {"wrong_parity", pipelines<Bf16, kWrongParity>},
    {"few_bytes", pipelines<Bf16, kFewBytes>},
    {"many_bytes", pipelines<Bf16, kManyBytes>},
    {"early_release", pipelines<Bf16, kEarlyRelease>},
    {"no_product_wait", pipelines<Bf16, kNoProductWait>},
    {"reads_too_soon", pipelines<Bf16, kReadsTooSoon>},
    {"no_fence", pipelines<Bf16, kNoFence>},
    {"not_swizzled", pipelines<Bf16, kNotSwizzled>},
    {"wrong_offset", pipelines<Bf16, kWrongOffset>},
    {"wrong_rows", pipelines<Bf16, kWrongRows>},
    {"two_arrivals", pipelines<Bf16, kTwoArrivals>},
    {"no_init", pipelines<Bf16, kNoInit>},
    {"overwritten", pipelines<Bf16, kOverwritten>},
    {"lane_descriptor", pipelines<Bf16, kLaneDescriptor>},
};

}  // namespace

int main(int count, char** arguments) {
  return runNamed(kCases, count, arguments);
}
