// A tile of rows and keys: its sizes, what of it a warp has, and how it gets into shared memory.
#pragma once

#include "../common/numeric.cuh"
#include "rows.cuh"

namespace r1trt::kernels::hla {

constexpr int kStages = 2;

// Elements of a key and of a value; a latent's value is the first of its key.
template <int kQk_, int kV_>
struct Heads {
  static constexpr int kQk = kQk_, kV = kV_;
  static constexpr bool kLatent = false;
};
template <int kQk_, int kV_>
struct Latents {
  static constexpr int kQk = kQk_, kV = kV_;
  static constexpr bool kLatent = true;
};

// Of a stage.
template <int kCount_>
struct Keys {
  static constexpr int kCount = kCount_;
};

// kDown x 16 rows, one below the other; kOnKeys warps share a tile's keys, kOnValues the columns of the
// output.
template <int kDown_, int kOnKeys_, int kOnValues_>
struct Warps {
  static constexpr int kDown = kDown_, kOnKeys = kOnKeys_, kOnValues = kOnValues_;
};

template <class T_, class Head, class KeysOfStage, class WarpsOfBlock>
struct Tile {
  using T = T_;
  static constexpr int kQk = Head::kQk, kV = Head::kV, kKeys = KeysOfStage::kCount;
  static constexpr bool kLatent = Head::kLatent;
  static constexpr int kWarpsDown = WarpsOfBlock::kDown, kWarpsKeys = WarpsOfBlock::kOnKeys,
                       kWarpsValues = WarpsOfBlock::kOnValues;
  static constexpr int kRows = kWarpsDown * 16;
  static constexpr int kThreads = kWarpsDown * kWarpsKeys * kWarpsValues * kWarpSize;
  static constexpr int kKeyTiles = kKeys / kWarpsKeys / 8;   // of 8 keys, a warp's
  static constexpr int kValueTiles = kV / kWarpsValues / 8;  // of 8 columns, a warp's
  static constexpr int kQueryBytes = kRows * kQk * 2;
  static constexpr int kKeyBytes = kKeys * kQk * 2;
  static constexpr int kStageBytes = kKeyBytes + (kLatent ? 0 : kKeys * kV * 2);
  static constexpr int kMergeBytes = kWarpsKeys > 1 ? kWarpsKeys * kRows * (kV + 2) * 4 : 0;
  static constexpr int kSharedBytes = kQueryBytes + kStages * kStageBytes;
  static_assert(kMergeBytes <= kStages * kStageBytes, "partial outputs are merged where the keys were");
  static_assert(kKeyTiles % 2 == 0 && kValueTiles % 2 == 0, "ldmatrix loads two tiles at a time");
};

template <int kRows>
struct BlockShared {
  BlockWork work;  // as every thread has it, for what comes behind a branch: its registers would be spilled
  RowList list;
  Row rows[kRows];
};

// Byte offset in rows of `kBytes`. NOTES: a chunk of 8 rows falls into 8 different groups of banks.
template <int kBytes>
__device__ __forceinline__ int swizzled(int row, int chunk) {
  return row * kBytes + (chunk ^ (row & 7)) * 16;
}

// Copies kCount rows of kBytes. address(row, valid) clears `valid` where zeros are wanted, and then may
// return anything.
//
// Eight threads copy 128 bytes of a row, and the rows of a thread are a multiple of 8 apart: its place in
// shared memory moves by constants, and the row's address serves for all of its 128-byte groups.
template <int kCount, int kBytes, int kThreads, class Address>
__device__ __forceinline__ void loadRows(char* target, Address const& address) {
  constexpr int kLanes = 8, kGroup = kLanes * 16, kRowsAtOnce = kThreads / kLanes;
  static_assert(kBytes % kGroup == 0 && kRowsAtOnce % 8 == 0, "whole groups; the swizzle is a thread's");
  constexpr int kUnrolled = kBytes > 512 ? 1 : 8;  // the output of a long head fills the registers
  int const thread = threadReadAnew(), row0 = thread / kLanes, lane = thread % kLanes;
  char* const mine = target + swizzled<kBytes>(row0, lane);
#pragma unroll kUnrolled
  for (int begin = 0; begin < kCount; begin += kRowsAtOnce) {
    int const row = begin + row0;
    if (begin + kRowsAtOnce > kCount && row >= kCount) continue;
    bool valid = true;
    char const* const source = reinterpret_cast<char const*>(address(row, valid)) + lane * 16;
#pragma unroll
    for (int group = 0; group < kBytes; group += kGroup) {
      copyAsync16(mine + begin * kBytes + group, source + group, valid);
    }
  }
}

template <class Tile>
__device__ __forceinline__ void loadQueries(Attention const& a, BlockWork const& work, Row const* rows,
                                            char* target) {
  using T = typename Tile::T;
  HlaAttentionParams const& p = a.params;
  loadRows<Tile::kRows, Tile::kQk * 2, Tile::kThreads>(target, [&](int row, bool& valid) {
    valid = rows[row].token >= 0;
    int const token = valid ? rows[row].token : 0;
    return static_cast<T const*>(p.q) + ((work.b * p.seq + token) * p.heads + rows[row].head) * Tile::kQk;
  });
}

template <class Tile>
__device__ __forceinline__ void loadKeys(Attention const& a, BlockWork const& work, KeyList const& keys,
                                         int index0, char* stage) {
  using T = typename Tile::T;
  auto base = [&](Source const& source) {
    return static_cast<T const*>(source.data) + work.b * source.batch + work.kv_head * source.head;
  };
  auto address = [&](T const* data, uint32_t pitch, int row, bool& valid) {
    int const index = index0 + row;
    valid = index < keys.size;
    auto const position = static_cast<uint32_t>(keyPosition(keys, index, a.params.block_size));
    return data + static_cast<uint64_t>(position) * pitch;
  };
  loadRows<Tile::kKeys, Tile::kQk * 2, Tile::kThreads>(stage, [&](int row, bool& valid) {
    return address(base(a.keys), static_cast<uint32_t>(a.keys.token), row, valid);
  });
  if constexpr (!Tile::kLatent) {
    loadRows<Tile::kKeys, Tile::kV * 2, Tile::kThreads>(stage + Tile::kKeyBytes, [&](int row, bool& valid) {
      return address(base(a.values), static_cast<uint32_t>(a.values.token), row, valid);
    });
  }
}

// Which part of a tile a warp has.
struct WarpPlace {
  int lane, row0, key0, value0;
  bool writes;  // the first of the warps that share the keys
};

template <class Tile>
__device__ __forceinline__ WarpPlace warpPlace() {
  int const warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int const keys = warp / Tile::kWarpsDown % Tile::kWarpsKeys;
  return {static_cast<int>(threadIdx.x) % kWarpSize, warp % Tile::kWarpsDown * 16,
          keys * (Tile::kKeys / Tile::kWarpsKeys),
          warp / (Tile::kWarpsDown * Tile::kWarpsKeys) * (Tile::kV / Tile::kWarpsValues), keys == 0};
}

}  // namespace r1trt::kernels::hla
