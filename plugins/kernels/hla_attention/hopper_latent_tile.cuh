// One block of the latent form on sm_90a: 64 rows against its split's keys, 64 at a time.
//
// Two warpgroups have 256 of the output's columns each. They take turns: each makes the weights of every
// other tile, uses them from its registers, and gives them to the other through shared memory. While one
// makes weights, the other multiplies: values by the weights that it was given, then its own scores.
//
// Legend, as in FlashAttention: S scores, P weights, O output, m a row's largest score, l the sum of its
// weights (of a warpgroup's own tiles). A lane has the rows lane / 4 and lane / 4 + 8 of its warp's 16; of
// every 8 columns two. Tiles are counted from the split's first.
#pragma once

#include "../common/numeric.cuh"
#include "hopper_latent_products.cuh"
#include "hopper_latent_work.cuh"
#include "hopper_softmax.cuh"

namespace r1trt::kernels::hla::latent {

// Where a lane works: its warpgroup of two, the first of its two rows in the block, and the last key that
// each sees. Of rows that are not there anything is computed, and nothing is stored.
struct Place {
  int warpgroup, thread, row, last[2];
  bool leads;

  __device__ __forceinline__ Place(Work const& work, Attention const& a) {
    int const consumer = static_cast<int>(threadIdx.x) - kWarpgroup;
    warpgroup = consumer / kWarpgroup;
    thread = consumer % kWarpgroup;
    row = thread / kWarpSize * 16 + thread % kWarpSize / 4;
    leads = thread % kWarpSize == 0;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      int const position = work.past + (work.row0 + row + 8 * r) / a.params.heads;
      last[r] = min(position, static_cast<int>(a.slots) - 1);
    }
  }
};

// What a lane has.
struct Sums {
  float s[kScores], o[kOutputs];
  uint32_t p[kScores / 8][4];
  Softmax softmax;
};

// S = q k^T of a tile.
template <class T>
__device__ __forceinline__ void beginScores(Shared& shared, int tile, Sums& sums) {
  Stage const stage(tile);
  holdRegisters(sums.s);
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    int const part = partAt(i);
    wait(&shared.full[stage.index][part], stage.parity);
    fenceProducts();  // behind a loop, or the compiler puts products one behind the other
#pragma unroll
    for (int step = 0; step < groupsOf(part) * 4; ++step) {
      int const group = firstGroup(part) + step / 4, offset = step % 4 * 32;
      multiplyScores<T>(sums.s, tileDescriptor(shared.q[group], offset),
                        tileDescriptor(shared.k[stage.index][group], offset), i + step > 0);
    }
  }
  commitProducts();
}

// Keys behind a row's position are not seen.
__device__ __forceinline__ void hideUnseen(Work const& work, Place const& place, int tile,
                                           float (&s)[kScores]) {
  int const key0 = (work.first + tile) * kKeys;
  if (key0 + kKeys <= work.common) return;
  int const column = key0 + place.thread % 4 * 2;
#pragma unroll
  for (int i = 0; i < kScores; ++i) {
    if (column + i / 4 * 8 + i % 2 > place.last[i / 2 % 2]) s[i] = -INFINITY;
  }
}

__device__ __forceinline__ float shift(float m) {
  return m == -INFINITY ? 0.0F : m;  // no key yet: weights of 0
}

// What was summed before is rescaled to a new m. The largest score soon stays what it is.
__device__ __forceinline__ void rescale(float const (&decay)[2], float (&o)[kOutputs]) {
  if (__any_sync(kAllLanes, decay[0] != 1.0F || decay[1] != 1.0F ? 1 : 0) == 0) return;
  hla::rescale(o, decay);
}

// P to shared memory, as an operand of products lies there.
__device__ __forceinline__ void storeWeights(Shared& shared, Place const& place, Sums const& sums) {
  int const lane = place.thread % kWarpSize;
#pragma unroll
  for (int i = 0; i < kScores / 2; ++i) {
    int const row = place.row + i % 2 * 8, vector = i / 4 * 2 + i % 4 / 2;  // of 16 bytes
    char* const target = shared.p + row * kSwizzleBytes + (vector ^ (row % kSwizzleRows)) * 16;
    *reinterpret_cast<uint32_t*>(target + lane % 4 * 4) = sums.p[i / 4][i % 4];
  }
}

// P and m to the other warpgroup. It has used those of the tile before, for this one has.
__device__ __forceinline__ void giveWeights(Shared& shared, Place const& place, Sums const& sums) {
  storeWeights(shared, place, sums);
  __syncwarp();  // a row's four lanes have read m
  if (place.thread % kWarpSize % 4 == 0) {
    shared.m[place.row] = sums.softmax.m[0];
    shared.m[place.row + 8] = sums.softmax.m[1];
  }
  fenceStores();
  arrive(&shared.given[place.warpgroup]);
}

// Values behind the last key may be anything, and nothing times a NaN is one. A warpgroup's own columns; the
// scores of these keys are hidden, should they still be multiplied.
__device__ __forceinline__ void clearValues(Shared& shared, Place const& place, int tile) {
  int const keys = shared.work.keys - (shared.work.first + tile) * kKeys;
  if (keys >= kKeys) return;
  syncSome<kWarpgroup>(kWarpgroupBarrier + place.warpgroup);  // other warps' scores of them are multiplied
  constexpr int kVectors = kHalfGroups * 8;                   // of 16 bytes in a row
  for (int i = keys * kVectors + place.thread; i < kKeys * kVectors; i += kWarpgroup) {
    int const row = i / kVectors, vector = i % kVectors;
    char* const group = shared.k[tile % kStages][firstGroup(place.warpgroup) + vector / 8];
    *reinterpret_cast<uint4*>(group + row * kSwizzleBytes + vector % 8 * 16) = uint4{};
  }
  fenceStores();
  syncSome<kWarpgroup>(kWarpgroupBarrier + place.warpgroup);
}

// Of a stage, what lies 16 keys further on at each step.
__device__ __forceinline__ uint64_t valuesDescriptor(Shared const& shared, Place const& place, int tile,
                                                     int step) {
  return rowsDescriptor(shared.k[tile % kStages][firstGroup(place.warpgroup)], step * 16, kGroupBytes);
}

__device__ __forceinline__ void giveBack(Shared& shared, Place const& place, int tile, int part) {
  if (place.leads) arrive(&shared.empty[tile % kStages][part]);
}

// O += P v of the other warpgroup's tile.
template <class T>
__device__ __forceinline__ void beginGiven(Shared& shared, Place const& place, int tile, Sums& sums) {
  Stage const stage(tile);
  wait(&shared.full[stage.index][place.warpgroup], stage.parity);
  wait(&shared.given[place.warpgroup ^ 1], tile / 2 % 2);
  float decay[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float const largest = shared.m[place.row + 8 * r];
    decay[r] = fastExp2(sums.softmax.m[r] - shift(largest));
    sums.softmax.m[r] = largest;
    sums.softmax.l[r] *= decay[r];
  }
  rescale(decay, sums.o);
  clearValues(shared, place, tile);
  holdRegisters(sums.o);
  fenceProducts();
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    addValues<T>(sums.o, tileDescriptor(shared.p, step * 32), valuesDescriptor(shared, place, tile, step));
  }
  commitProducts();
}

// They have been multiplied.
__device__ __forceinline__ void endGiven(Shared& shared, Place const& place, int tile, Sums& sums) {
  holdRegisters(sums.o);
  giveBack(shared, place, tile, place.warpgroup);
}

// The scores have been multiplied: weights of the own tile.
template <class T>
__device__ __forceinline__ void endScores(Call const& call, Shared& shared, Place const& place, int tile,
                                          Sums& sums, float (&decay)[2]) {
  holdRegisters(sums.s);
  giveBack(shared, place, tile, kRest);
  hideUnseen(shared.work, place, tile, sums.s);
  sums.softmax.update(sums.s, call.a.scale_log2, decay);
  packWeights<T>(sums.s, sums.p);
}

// O += P v of the own tile, to the end.
template <class T>
__device__ __forceinline__ void addOwn(Shared& shared, Place const& place, int tile, float const (&decay)[2],
                                       Sums& sums) {
  rescale(decay, sums.o);
  clearValues(shared, place, tile);
  holdRegisters(sums.o);
  fenceProducts();
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    addValues<T>(sums.o, sums.p[step], valuesDescriptor(shared, place, tile, step));
  }
  commitProducts();
  waitProducts<0>();
  holdWeights(sums.p);
  holdRegisters(sums.o);
  giveBack(shared, place, tile, place.warpgroup);
}

// The split's first tile, by the first warpgroup.
template <class T>
__device__ __forceinline__ void firstTile(Call const& call, Shared& shared, Place const& place, Sums& sums) {
  float decay[2];
  beginScores<T>(shared, 0, sums);
  waitProducts<0>();
  endScores<T>(call, shared, place, 0, sums, decay);
  giveWeights(shared, place, sums);
  addOwn<T>(shared, place, 0, decay, sums);
}

// The other warpgroup's tile in front of the own one, and the own one. The other's comes first: its values
// are there already, and while they are multiplied the own tile's keys land, whose stage this warpgroup gave
// back just before.
template <class T>
__device__ __forceinline__ void twoTiles(Call const& call, Shared& shared, Place const& place, int tile,
                                         Sums& sums) {
  float decay[2];
  beginGiven<T>(shared, place, tile - 1, sums);
  beginScores<T>(shared, tile, sums);
  waitProducts<1>();
  endGiven(shared, place, tile - 1, sums);
  waitProducts<0>();
  endScores<T>(call, shared, place, tile, sums, decay);
  giveWeights(shared, place, sums);
  addOwn<T>(shared, place, tile, decay, sums);
}

// l of both warpgroups' tiles, and of a row's four lanes. Both have the last m.
__device__ __forceinline__ void addSums(Shared& shared, Place const& place, Sums& sums) {
  sums.softmax.end();
  if (place.thread % 4 == 0) {
    shared.l[place.warpgroup][place.row] = sums.softmax.l[0];
    shared.l[place.warpgroup][place.row + 8] = sums.softmax.l[1];
  }
  syncSome<kConsumersBarrier, kConsumers>();
#pragma unroll
  for (int r = 0; r < 2; ++r) sums.softmax.l[r] += shared.l[place.warpgroup ^ 1][place.row + 8 * r];
}

// O / l to y, or to the split's part.
template <class T>
__device__ __forceinline__ void store(Attention const& a, Work const& work, Place const& place,
                                      Sums const& sums) {
  int const column = place.warpgroup * kHalf + place.thread % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    int const row = place.row + 8 * r;
    if (work.row0 + row >= work.rows) continue;
    int64_t const at = (work.query_row + row) * a.splits + work.split;
    float const factor = sums.softmax.l[r] > 0.0F ? 1.0F / sums.softmax.l[r] : 0.0F;
    T* const y = static_cast<T*>(a.params.y) + at * kLatentV + column;
    float* const partial = a.partial + at * kLatentV + column;
#pragma unroll
    for (int n = 0; n < kHalf / 8; ++n) {
      float const low = sums.o[4 * n + 2 * r] * factor, high = sums.o[4 * n + 2 * r + 1] * factor;
      if (a.splits > 1) {
        *reinterpret_cast<Vector<float, 2>*>(partial + n * 8) = Vector<float, 2>{{low, high}};
      } else {
        *reinterpret_cast<Vector<T, 2>*>(y + n * 8) = Vector<T, 2>{{fromFloat<T>(low), fromFloat<T>(high)}};
      }
    }
    if (a.splits > 1 && column == 0) {
      a.partial_lse[at] = sums.softmax.l[r] > 0.0F ? sums.softmax.m[r] + log2f(sums.softmax.l[r]) : -INFINITY;
    }
  }
}

template <class T>
__device__ __forceinline__ void consume(Call const& call, Shared& shared) {
  Work const& work = shared.work;
  Place const place(work, call.a);
  Sums sums;
#pragma unroll
  for (float& value : sums.o) value = 0.0F;
  if (work.tiles > 0) {
    wait(&shared.queries, 0);
    if (place.warpgroup == 0) firstTile<T>(call, shared, place, sums);
  }
  int tile = place.warpgroup == 0 ? 2 : 1;
  for (; tile < work.tiles; tile += 2) twoTiles<T>(call, shared, place, tile, sums);
  if (tile == work.tiles) {  // the last tile is the other warpgroup's
    beginGiven<T>(shared, place, tile - 1, sums);
    waitProducts<0>();
    endGiven(shared, place, tile - 1, sums);
  }
  addSums(shared, place, sums);
  store<T>(call.a, work, place, sums);
}

}  // namespace r1trt::kernels::hla::latent
