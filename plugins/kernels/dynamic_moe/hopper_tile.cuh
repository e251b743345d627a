// One tile of a grouped product on sm_90a: what loads it, what multiplies it, and what writes it.
//
// Legend: a warpgroup computes a part of 64 rows; a step is 128 bytes along K, a stage one step's A and B in
// shared memory.
#pragma once

#include "../common/hopper.cuh"
#include "../common/tensor_map.h"
#include "hopper_gemm.h"
#include "hopper_store.cuh"

namespace r1trt::kernels::moe {

using namespace hopper;

constexpr int kProducers = kWarpgroup, kConsumers = 2 * kWarpgroup;
constexpr int kThreads = kProducers + kConsumers;
constexpr int kConsumerWarps = kConsumers / kWarpSize;
constexpr int kProductBytes = 32;  // of a row, that one wgmma takes
// 65,536 registers: 128 threads of 40 and 256 of 232.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

// What a warpgroup multiplies: 64 rows by kColumns columns, Out being the result's type.
struct Bfloat16 {
  using Out = __nv_bfloat16;
  static constexpr CUtensorMapDataType kMapType = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  static constexpr int kSize = 2;
  static constexpr bool kScaled = false;
  template <int kRegisters>
  static __device__ void multiply(float (&d)[kRegisters], uint64_t a, uint64_t b, int more) {
    multiplyBf16(d, a, b, more);
  }
};
struct Float16 {
  using Out = __half;
  static constexpr CUtensorMapDataType kMapType = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  static constexpr int kSize = 2;
  static constexpr bool kScaled = false;
  template <int kRegisters>
  static __device__ void multiply(float (&d)[kRegisters], uint64_t a, uint64_t b, int more) {
    multiplyF16(d, a, b, more);
  }
};
template <class Output>
struct Float8 {
  using Out = Output;
  static constexpr CUtensorMapDataType kMapType = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  static constexpr int kSize = 1;
  static constexpr bool kScaled = true;
  static __device__ void multiply(float (&d)[64], uint64_t a, uint64_t b, int more) {
    multiplyE4m3(d, a, b, more);
  }
};

// A tile: the two warpgroups under one another (kAcross 1), or side by side for experts of few rows (kAcross
// 2): then less of it is behind the expert's end, and each byte of weights meets fewer rows.
template <class Operand, int kGroupColumns, int kGroupsAcross, int kRing>
struct TileOf {
  using Type = Operand;
  static constexpr int kGroupRows = 64, kAcross = kGroupsAcross;
  static constexpr int kColumnsOfGroup = kGroupColumns, kRegisters = kGroupColumns / 2;
  static constexpr int kRows = kGroupRows * 2 / kAcross, kColumns = kGroupColumns * kAcross;
  static constexpr int kStages = kRing;
  static_assert(!Type::kScaled || kGroupColumns == kScaleBlock);
};

struct Problem {
  CUtensorMap a;
  CUtensorMap weight[kMaxExpertParts + 1];
  float const* weight_scale[kMaxExpertParts + 1];
  float const* a_scale;             // [rows, steps], or one for all; null: 1
  int a_scale_pitch, weight_pitch;  // from a step's scale to the next one's: 1, or 0 for all the same
  ScaleLayout layout;
  void* out;
  int32_t const* offset;
  int64_t rows;
  int32_t experts, groups, parts, n, k;
};

// One tile of the result.
struct Tile {
  int part, matrix;  // where its weights are
  int row, end;      // its first row, and the first behind the expert's
  int column;        // its first
};

// Where the tiles of each group begin, in rows of tiles. By one warp.
template <int kRows>
__device__ void countTiles(Problem const& p, int* first) {
  int const lane = threadIdx.x % kWarpSize;
  int base = 0;
  if (lane == 0) first[0] = 0;
  for (int begin = 0; begin < p.groups; begin += kWarpSize) {
    int const group = begin + lane;
    int sum = 0;
    if (group < p.groups) {
      int const rows = p.offset != nullptr ? p.offset[group + 1] - p.offset[group] : static_cast<int>(p.rows);
      sum = ceilDiv(rows, kRows);
    }
    for (int distance = 1; distance < kWarpSize; distance *= 2) {
      int const other = __shfl_up_sync(kAllLanes, sum, distance);
      if (lane >= distance) sum += other;
    }
    if (group < p.groups) first[group + 1] = base + sum;
    base += __shfl_sync(kAllLanes, sum, kWarpSize - 1);
  }
}

// Tiles of a group that share weights follow one another, so that the second of them finds those in L2.
template <class Shape>
__device__ Tile tileAt(Problem const& p, int const* first, int columns, int index) {
  int low = 0, high = p.groups;
  while (high - low > 1) {
    int const middle = (low + high) / 2;
    (first[middle] * columns <= index ? low : high) = middle;
  }
  int const rows_of_tiles = first[low + 1] - first[low];
  int const local = index - first[low] * columns;
  int const begin = p.offset != nullptr ? p.offset[low] : 0;
  int const end = p.offset != nullptr ? p.offset[low + 1] : static_cast<int>(p.rows);
  ExpertPlace const place = p.offset != nullptr ? placeOfGroup(low, p.experts, p.parts) : ExpertPlace{0, 0};
  return {place.part, place.index, begin + local % rows_of_tiles * Shape::kRows, end,
          local / rows_of_tiles * Shape::kColumns};
}

template <class Shape>
struct Shared {
  static constexpr int kTileA = Shape::kRows * kSwizzleBytes, kTileB = Shape::kColumns * kSwizzleBytes;
  alignas(kTileAlignment) char a[Shape::kStages][kTileA];
  alignas(kTileAlignment) char b[Shape::kStages][kTileB];
  Barrier full[Shape::kStages], empty[Shape::kStages];
  int first[kMaxExperts + 2];
};

// The place in the ring, and the parity of the round.
template <int kStages>
struct Place {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void next() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

template <class Shape>
__device__ void produce(Problem const& p, Shared<Shape>& shared, int tiles, int columns, int steps) {
  Place<Shape::kStages> place;
  for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
    Tile const tile = tileAt<Shape>(p, shared.first, columns, index);
    int const weight_row = tile.matrix * p.n + tile.column;
    for (int step = 0; step < steps; ++step, place.next()) {
      int const column = step * (kSwizzleBytes / Shape::Type::kSize);
      wait(&shared.empty[place.stage], place.parity ^ 1);
      arriveExpecting(&shared.full[place.stage], Shared<Shape>::kTileA + Shared<Shape>::kTileB);
      loadTile(shared.a[place.stage], &p.a, &shared.full[place.stage], column, tile.row);
      loadTile(shared.b[place.stage], &p.weight[tile.part], &shared.full[place.stage], column, weight_row);
    }
  }
}

// A warpgroup's part of the tile.
template <class Shape>
struct Part {
  int group;  // warpgroup
  __device__ int row() const { return Shape::kAcross == 1 ? group * Shape::kGroupRows : 0; }
  __device__ int column() const { return Shape::kAcross == 1 ? 0 : group * Shape::kColumnsOfGroup; }
  // The first of the two that a consumer's lane has, 8 apart, in the tile.
  __device__ int rowOfLane(int thread) const {
    return row() + thread % kWarpgroup / kWarpSize * 16 + thread % kWarpSize / 4;
  }
};

template <class Shape>
__device__ __forceinline__ void multiplyStage(Shared<Shape>& shared, int stage, Part<Shape> part,
                                              float (&sum)[Shape::kRegisters], bool more) {
  char const* a = shared.a[stage] + part.row() * kSwizzleBytes;
  char const* b = shared.b[stage] + part.column() * kSwizzleBytes;
  fenceProducts();
#pragma unroll
  for (int offset = 0; offset < kSwizzleBytes; offset += kProductBytes) {
    Shape::Type::multiply(sum, tileDescriptor(a, offset), tileDescriptor(b, offset), more || offset > 0);
  }
  commitProducts();
}

// No row of the part is the expert's: its stages are given back as they come.
template <class Shape>
__device__ __forceinline__ void skip(Shared<Shape>& shared, Place<Shape::kStages>& place, int steps) {
  for (int step = 0; step < steps; ++step, place.next()) {
    wait(&shared.full[place.stage], place.parity);
    if (threadIdx.x % kWarpSize == 0) arrive(&shared.empty[place.stage]);
  }
}

// 16 bits: products follow one another; a stage is given back when the next one's run.
template <class Shape>
__device__ __forceinline__ void accumulate(Shared<Shape>& shared, Place<Shape::kStages>& place,
                                           Part<Shape> part, int steps, float (&sum)[Shape::kRegisters]) {
  bool const leads = threadIdx.x % kWarpSize == 0;
  int previous = 0;
  holdRegisters(sum);
  for (int step = 0; step < steps; ++step, place.next()) {
    wait(&shared.full[place.stage], place.parity);
    multiplyStage(shared, place.stage, part, sum, step > 0);
    waitProducts<1>();
    if (step > 0 && leads) arrive(&shared.empty[previous]);
    previous = place.stage;
  }
  waitProducts<0>();
  holdRegisters(sum);
  if (leads) arrive(&shared.empty[previous]);
}

__device__ float const kUnscaled = 1.0F;

// Scales of two rows of a lane, and of its columns: of the first step of 128 terms, the others behind them.
// Those of single columns come behind all steps.
template <class Shape>
struct Scales {
  float const *upper, *lower, *weight;

  __device__ Scales(Problem const& p, Tile const& tile, Part<Shape> part, int row, int steps)
      : upper(ofRow(p, row, steps)),
        lower(ofRow(p, row + 8, steps)),
        weight(ofWeight(p, tile, tile.column + part.column(), steps)) {}

  static __device__ float const* ofRow(Problem const& p, int row, int steps) {
    int64_t const last = p.rows - 1;
    if (p.a_scale_pitch == 0) return p.a_scale != nullptr ? p.a_scale : &kUnscaled;
    return p.a_scale + (row < last ? row : last) * steps;
  }

  static __device__ float const* ofWeight(Problem const& p, Tile const& tile, int column, int steps) {
    float const* const scale = p.weight_scale[tile.part];
    if (p.layout == ScaleLayout::kPerTensor) return scale + tile.matrix;
    if (p.layout == ScaleLayout::kPerChannel) return &kUnscaled;
    int64_t const blocks = scaleBlocks(p.n), block = column / kScaleBlock;
    return scale + (tile.matrix * blocks + (block < blocks ? block : blocks - 1)) * steps;
  }
};

// A scale of each column of the weight.
template <class Shape>
__device__ __forceinline__ void scaleColumns(Problem const& p, Tile const& tile, Part<Shape> part,
                                             float (&sum)[Shape::kRegisters]) {
  float const* const scale = p.weight_scale[tile.part] + static_cast<int64_t>(tile.matrix) * p.n;
  int const column = tile.column + part.column() + static_cast<int>(threadIdx.x & 3) * 2;
#pragma unroll
  for (int group = 0; group < Shape::kColumnsOfGroup / 8; ++group) {
    if (column + group * 8 >= p.n) break;  // n is a multiple of 16: both of a pair are inside
    auto const pair = *reinterpret_cast<float2 const*>(scale + column + group * 8);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[group * 4 + half * 2] *= pair.x;
      sum[group * 4 + half * 2 + 1] *= pair.y;
    }
  }
}

// The products of one step, of an own scale, while they run and after that.
template <class Shape>
struct Step {
  float product[Shape::kRegisters];
  float upper, lower, weight;

  __device__ __forceinline__ void begin(Problem const& p, Shared<Shape>& shared, Place<Shape::kStages>& place,
                                        Part<Shape> part, Scales<Shape> const& scales, int step) {
    upper = __ldg(scales.upper + step * p.a_scale_pitch);
    lower = __ldg(scales.lower + step * p.a_scale_pitch);
    weight = __ldg(scales.weight + step * p.weight_pitch);
    wait(&shared.full[place.stage], place.parity);
    holdRegisters(product);
    multiplyStage(shared, place.stage, part, product, false);
    place.next();
  }

  // Its stage is given back, and its sums are added.
  __device__ __forceinline__ void end(Shared<Shape>& shared, Place<Shape::kStages>& done,
                                      float (&sum)[Shape::kRegisters]) {
    holdRegisters(product);
    if (threadIdx.x % kWarpSize == 0) arrive(&shared.empty[done.stage]);
    done.next();
    float const scale_upper = upper * weight, scale_lower = lower * weight;
#pragma unroll
    for (int i = 0; i < Shape::kRegisters; ++i) {
      sum[i] += product[i] * (i % 4 < 2 ? scale_upper : scale_lower);
    }
  }
};

// FP8: the next step's products run while a step's are scaled and added.
template <class Shape>
__device__ __forceinline__ void accumulateScaled(Problem const& p, Shared<Shape>& shared,
                                                 Place<Shape::kStages>& place, Part<Shape> part,
                                                 Scales<Shape> const& scales, int steps,
                                                 float (&sum)[Shape::kRegisters]) {
  Place<Shape::kStages> done = place;
  Step<Shape> even, odd;
#pragma unroll
  for (float& value : sum) value = 0.0F;
  even.begin(p, shared, place, part, scales, 0);
  int step = 1;
  for (; step + 1 < steps; step += 2) {
    odd.begin(p, shared, place, part, scales, step);
    waitProducts<1>();
    even.end(shared, done, sum);
    even.begin(p, shared, place, part, scales, step + 1);
    waitProducts<1>();
    odd.end(shared, done, sum);
  }
  if (step < steps) {
    odd.begin(p, shared, place, part, scales, step);
    waitProducts<1>();
    even.end(shared, done, sum);
    waitProducts<0>();
    odd.end(shared, done, sum);
  } else {
    waitProducts<0>();
    even.end(shared, done, sum);
  }
}

// Rows behind the expert's are the next one's: not written.
template <class Shape>
__device__ __forceinline__ void writePart(Problem const& p, Part<Shape> part, Tile const& tile, int row,
                                          float const (&sum)[Shape::kRegisters]) {
  using Out = typename Shape::Type::Out;
  auto* out = static_cast<Out*>(p.out);
  int const column = tile.column + part.column() + static_cast<int>(threadIdx.x & 3) * 8;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int const own = row + half * 8;
#pragma unroll
    for (int group = 0; group < Shape::kColumnsOfGroup / 32; ++group) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int const at = (group * 4 + i) * 4 + half * 2;
        pairs[i] = packed<Out>(sum[at], sum[at + 1]);
      }
      uint4 const values = transposeQuad(pairs);
      int const at = column + group * 32;
      if (own < tile.end && at < p.n) {
        *reinterpret_cast<uint4*>(out + static_cast<int64_t>(own) * p.n + at) = values;
      }
    }
  }
}

template <class Shape>
__device__ void consume(Problem const& p, Shared<Shape>& shared, int tiles, int columns, int steps) {
  int const thread = static_cast<int>(threadIdx.x) - kProducers;
  Part<Shape> const part{thread / kWarpgroup};
  int const row_of_lane = part.rowOfLane(thread);
  Place<Shape::kStages> place;
  float sum[Shape::kRegisters];
  for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
    Tile const tile = tileAt<Shape>(p, shared.first, columns, index);
    int const row = tile.row + row_of_lane;
    if (tile.row + part.row() >= tile.end) {
      skip<Shape>(shared, place, steps);
      continue;
    }
    if constexpr (Shape::Type::kScaled) {
      Scales<Shape> const scales(p, tile, part, row, steps);
      accumulateScaled(p, shared, place, part, scales, steps, sum);
      if (p.layout == ScaleLayout::kPerChannel) {
        // NOTES: found again, for kept over the products it would be spilled.
        scaleColumns(p, tileAt<Shape>(p, shared.first, columns, index), part, sum);
      }
    } else {
      accumulate(shared, place, part, steps, sum);
    }
    writePart(p, part, tile, row, sum);
  }
}

}  // namespace r1trt::kernels::moe
