// Flash attention of one key/value head's rows over one branch's keys after the other, by mma.sync.
//
// A block compacts its rows by lam, so that whole tiles of them skip a branch; first tokens of blocks are
// gathered into their own part of the key tiles, so that the block branch reads nothing but what it needs.
#pragma once

#include "../common/mma.cuh"
#include "../common/numeric.cuh"
#include "rows.cuh"

namespace r1trt::kernels::hla {

constexpr int kStages = 2;

// kWarpsDown x 16 rows; kWarpsKeys share a tile's keys, kWarpsValues the columns of the output.
template <class T_, int kQk_, int kV_, bool kLatent_, int kKeys_, int kWarpsDown_, int kWarpsKeys_,
          int kWarpsValues_>
struct Tile {
  using T = T_;
  static constexpr int kQk = kQk_, kV = kV_, kKeys = kKeys_;
  static constexpr bool kLatent = kLatent_;
  static constexpr int kWarpsDown = kWarpsDown_, kWarpsKeys = kWarpsKeys_, kWarpsValues = kWarpsValues_;
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
  RowList list;
  Row rows[kRows];
};

// Byte offset in rows of `kBytes`. NOTES: a chunk of 8 rows falls into 8 different groups of banks.
template <int kBytes>
__device__ __forceinline__ int swizzled(int row, int chunk) {
  return row * kBytes + (chunk ^ (row & 7)) * 16;
}

template <class Tile>
struct State {
  float out[Tile::kValueTiles][4];
  float largest[2], sum[2];  // of the rows lane / 4 and lane / 4 + 8; scores times log2(e)
};

// Copies kCount rows of kBytes; address(row) is null where zeros are wanted.
template <int kCount, int kBytes, int kThreads, class Address>
__device__ __forceinline__ void loadRows(char* target, void const* any, Address const& address) {
  constexpr int kChunks = kBytes / 16;
#pragma unroll 1  // addresses kept over the main loop would not fit the registers
  for (int i = static_cast<int>(threadIdx.x); i < kCount * kChunks; i += kThreads) {
    int const row = i / kChunks, chunk = i % kChunks;
    auto const* const source = reinterpret_cast<char const*>(address(row));
    bool const valid = source != nullptr;
    copyAsync16(target + swizzled<kBytes>(row, chunk), valid ? source + chunk * 16 : any, valid);
  }
}

template <class Tile>
__device__ __forceinline__ void loadQueries(Attention const& a, BlockWork const& work, Row const* rows,
                                            char* target) {
  using T = typename Tile::T;
  HlaAttentionParams const& p = a.params;
  loadRows<Tile::kRows, Tile::kQk * 2, Tile::kThreads>(target, p.q, [&](int row) -> T const* {
    if (rows[row].token < 0) return nullptr;
    return static_cast<T const*>(p.q) +
           ((work.b * p.seq + rows[row].token) * p.heads + rows[row].head) * Tile::kQk;
  });
}

template <class Tile>
__device__ __forceinline__ void loadKeys(Attention const& a, BlockWork const& work, KeyList const& keys,
                                         int index0, char* stage) {
  using T = typename Tile::T;
  auto base = [&](Source const& source) {
    return static_cast<T const*>(source.data) + work.b * source.batch + work.kv_head * source.head;
  };
  auto address = [&](T const* data, int64_t pitch, int row) -> T const* {
    int const index = index0 + row;
    return index < keys.size ? data + keyPosition(keys, index, a.params.block_size) * pitch : nullptr;
  };
  T const* const k = base(a.keys);
  loadRows<Tile::kKeys, Tile::kQk * 2, Tile::kThreads>(
      stage, k, [&](int row) { return address(k, a.keys.token, row); });
  if constexpr (!Tile::kLatent) {
    T const* const v = base(a.values);
    loadRows<Tile::kKeys, Tile::kV * 2, Tile::kThreads>(
        stage + Tile::kKeyBytes, v, [&](int row) { return address(v, a.values.token, row); });
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

template <class Tile>
__device__ __forceinline__ void scoreKeys(char const* queries, char const* keys, WarpPlace const& place,
                                          float (&score)[Tile::kKeyTiles][4]) {
  constexpr int kBytes = Tile::kQk * 2, kSteps = Tile::kQk / 16;
  // All of a long head would not fit the registers.
  constexpr int kUnrolled = Tile::kQk > 256 ? 2 : Tile::kQk > 128 ? 4 : kSteps;
  int const lane = place.lane;
#pragma unroll kUnrolled
  for (int step = 0; step < kSteps; ++step) {
    uint32_t a[4];
    ldmatrixX4(a, queries + swizzled<kBytes>(place.row0 + lane % 16, step * 2 + lane / 16));
#pragma unroll
    for (int n = 0; n < Tile::kKeyTiles; n += 2) {
      int const row = place.key0 + n * 8 + lane % 8 + lane / 16 * 8;
      uint32_t b[4];
      ldmatrixX4(b, keys + swizzled<kBytes>(row, step * 2 + lane / 8 % 2));
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        uint32_t const pair[2] = {b[2 * j], b[2 * j + 1]};
        Mma<typename Tile::T>::run(score[n + j], a, pair);
      }
    }
  }
}

// Online softmax: turns scores into weights relative to the new largest score, and rescales what was summed.
template <class Tile, bool kBlockBranch>
__device__ __forceinline__ void updateSoftmax(float scale, Row const (&row)[2], KeyList const& keys,
                                              int index0, int lane, float (&score)[Tile::kKeyTiles][4],
                                              State<Tile>& state) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float largest = state.largest[r];
#pragma unroll
    for (int n = 0; n < Tile::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 2 * r; i < 2 * r + 2; ++i) {
        bool const visible = sees<kBlockBranch>(row[r], keys, index0 + n * 8 + lane % 4 * 2 + i % 2);
        score[n][i] = visible ? score[n][i] * scale : -INFINITY;
        largest = fmaxf(largest, score[n][i]);
      }
    }
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
    float const offset = largest == -INFINITY ? 0.0F : largest;  // no key yet: weights of 0
    float const decay = fastExp2(state.largest[r] - offset);
    state.largest[r] = largest;
    state.sum[r] *= decay;
#pragma unroll
    for (int n = 0; n < Tile::kValueTiles; ++n) {
      state.out[n][2 * r] *= decay;
      state.out[n][2 * r + 1] *= decay;
    }
#pragma unroll
    for (int n = 0; n < Tile::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 2 * r; i < 2 * r + 2; ++i) {
        score[n][i] = fastExp2(score[n][i] - offset);
        state.sum[r] += score[n][i];
      }
    }
  }
}

template <class Tile>
__device__ __forceinline__ void addValues(char const* values, WarpPlace const& place,
                                          float const (&weight)[Tile::kKeyTiles][4], State<Tile>& state) {
  using T = typename Tile::T;
  constexpr int kBytes = (Tile::kLatent ? Tile::kQk : Tile::kV) * 2;
  int const lane = place.lane;
#pragma unroll
  for (int step = 0; step < Tile::kKeyTiles / 2; ++step) {
    float const(&low)[4] = weight[2 * step];
    float const(&high)[4] = weight[2 * step + 1];
    uint32_t const a[4] = {packPair<T>(low[0], low[1]), packPair<T>(low[2], low[3]),
                           packPair<T>(high[0], high[1]), packPair<T>(high[2], high[3])};
#pragma unroll
    for (int n = 0; n < Tile::kValueTiles; n += 2) {
      uint32_t b[4];
      int const row = place.key0 + step * 16 + lane % 16;
      ldmatrixX4Transposed(b, values + swizzled<kBytes>(row, place.value0 / 8 + n + lane / 16));
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        uint32_t const pair[2] = {b[2 * j], b[2 * j + 1]};
        Mma<T>::run(state.out[n + j], a, pair);
      }
    }
  }
}

// Adds up the warps that shared the keys, into the first of them, through the memory of the stages.
template <class Tile>
__device__ __forceinline__ void mergeKeys(char* memory, WarpPlace const& place, State<Tile>& state) {
  constexpr int kPitch = Tile::kV + 2;
  auto* const all = reinterpret_cast<float*>(memory);
  int const part = place.key0 / (Tile::kKeys / Tile::kWarpsKeys);
  auto row = [&](int which, int r) {
    return all + (which * Tile::kRows + place.row0 + place.lane / 4 + r * 8) * kPitch;
  };
  __syncthreads();  // no warp reads keys any more
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float* const mine = row(part, r);
#pragma unroll
    for (int n = 0; n < Tile::kValueTiles; ++n) {
      int const column = place.value0 + n * 8 + place.lane % 4 * 2;
      mine[column] = state.out[n][2 * r];
      mine[column + 1] = state.out[n][2 * r + 1];
    }
    if (place.lane % 4 == 0) {
      mine[Tile::kV] = state.largest[r];
      mine[Tile::kV + 1] = state.sum[r];
    }
  }
  __syncthreads();
  if (!place.writes) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float largest = -INFINITY;
    for (int i = 0; i < Tile::kWarpsKeys; ++i) largest = fmaxf(largest, row(i, r)[Tile::kV]);
    float const offset = largest == -INFINITY ? 0.0F : largest;
    float sum = 0.0F, out[Tile::kValueTiles][2] = {};
    for (int i = 0; i < Tile::kWarpsKeys; ++i) {
      float const* const other = row(i, r);
      float const share = fastExp2(other[Tile::kV] - offset);
      sum += other[Tile::kV + 1] * share;
#pragma unroll
      for (int n = 0; n < Tile::kValueTiles; ++n) {
        int const column = place.value0 + n * 8 + place.lane % 4 * 2;
        out[n][0] += other[column] * share;
        out[n][1] += other[column + 1] * share;
      }
    }
    state.largest[r] = largest;
    state.sum[r] = sum;
#pragma unroll
    for (int n = 0; n < Tile::kValueTiles; ++n) {
      state.out[n][2 * r] = out[n][0];
      state.out[n][2 * r + 1] = out[n][1];
    }
  }
}

// One branch of one tile of rows, over this split's part of the keys.
template <class Tile, bool kBlockBranch>
__device__ __forceinline__ void attend(Attention const& a, BlockWork const& work, Row const* rows, int count,
                                       char* memory, State<Tile>& state) {
  WarpPlace const place = warpPlace<Tile>();
  Row const mine[2] = {rows[place.row0 + place.lane / 4], rows[place.row0 + place.lane / 4 + 8]};
  KeyList const keys = keysOf<Tile::kRows>(a, rows, count, kBlockBranch);
  int const tiles = ceilDiv(keys.size, Tile::kKeys);
  int const first = static_cast<int>(static_cast<int64_t>(tiles) * work.split / a.splits);
  int const end = static_cast<int>(static_cast<int64_t>(tiles) * (work.split + 1) / a.splits);
  // A warp whose rows have no weight in this branch only helps to load.
  bool const needed =
      kBlockBranch ? mine[0].lam < 1.0F || mine[1].lam < 1.0F : mine[0].lam > 0.0F || mine[1].lam > 0.0F;
  bool const warp_needed = __any_sync(kAllLanes, needed ? 1 : 0) != 0;
  state = State<Tile>{{}, {-INFINITY, -INFINITY}, {0.0F, 0.0F}};

  char* const queries = memory;
  char* const stages = memory + Tile::kQueryBytes;
  __syncthreads();  // the stages are free
  if (first < end) loadKeys<Tile>(a, work, keys, first * Tile::kKeys, stages);
  copyCommit();
  for (int tile = first; tile < end; ++tile) {
    char* const stage = stages + (tile - first) % kStages * Tile::kStageBytes;
    copyWait<0>();
    __syncthreads();  // this tile has landed for all; the other stage is free
    if (tile + 1 < end) {
      loadKeys<Tile>(a, work, keys, (tile + 1) * Tile::kKeys,
                     stages + (tile + 1 - first) % kStages * Tile::kStageBytes);
    }
    copyCommit();
    if (!warp_needed) continue;
    float score[Tile::kKeyTiles][4] = {};
    scoreKeys<Tile>(queries, stage, place, score);
    updateSoftmax<Tile, kBlockBranch>(a.scale_log2, mine, keys, tile * Tile::kKeys + place.key0, place.lane,
                                      score, state);
    addValues<Tile>(Tile::kLatent ? stage : stage + Tile::kKeyBytes, place, score, state);
  }
  copyWait<0>();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.sum[r] += __shfl_xor_sync(kAllLanes, state.sum[r], 1);
    state.sum[r] += __shfl_xor_sync(kAllLanes, state.sum[r], 2);
  }
  if constexpr (Tile::kWarpsKeys > 1) mergeKeys<Tile>(stages, place, state);
}

// Writes a branch's part of y: weighted, and added to what the other branch left there.
template <class Tile>
__device__ __forceinline__ void storeOutput(Attention const& a, BlockWork const& work, Row const* rows,
                                            State<Tile> const& state, bool block_branch, bool add) {
  using T = typename Tile::T;
  HlaAttentionParams const& p = a.params;
  WarpPlace const place = warpPlace<Tile>();
  if (!place.writes) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    Row const& row = rows[place.row0 + place.lane / 4 + r * 8];
    if (row.token < 0) continue;
    float const weight = block_branch ? 1.0F - row.lam : row.lam;
    float const factor = state.sum[r] > 0.0F ? weight / state.sum[r] : 0.0F;
    T* const y = static_cast<T*>(p.y) + ((work.b * p.seq + row.token) * p.heads + row.head) * Tile::kV;
#pragma unroll
    for (int n = 0; n < Tile::kValueTiles; ++n) {
      auto* const target = reinterpret_cast<Vector<T, 2>*>(y + place.value0 + n * 8 + place.lane % 4 * 2);
      float low = state.out[n][2 * r] * factor, high = state.out[n][2 * r + 1] * factor;
      if (add) {  // this thread itself wrote it
        Vector<T, 2> const before = *target;
        low += toFloat(before.value[0]);
        high += toFloat(before.value[1]);
      }
      *target = Vector<T, 2>{{fromFloat<T>(low), fromFloat<T>(high)}};
    }
  }
}

// Writes a split's part of a branch.
template <class Tile>
__device__ __forceinline__ void storePartial(Attention const& a, BlockWork const& work, Row const* rows,
                                             State<Tile> const& state, int branch) {
  HlaAttentionParams const& p = a.params;
  WarpPlace const place = warpPlace<Tile>();
  if (!place.writes) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    Row const& row = rows[place.row0 + place.lane / 4 + r * 8];
    if (row.token < 0) continue;
    int64_t const head = (static_cast<int64_t>(branch) * p.batch + work.b) * p.kv_heads + work.kv_head;
    int64_t const in_head = static_cast<int64_t>(row.token) * a.group + row.head % a.group;
    int64_t const at = (head * p.seq * a.group + in_head) * a.splits + work.split;
    float const factor = state.sum[r] > 0.0F ? 1.0F / state.sum[r] : 0.0F;
    float* const target = a.partial + at * Tile::kV;
#pragma unroll
    for (int n = 0; n < Tile::kValueTiles; ++n) {
      int const column = place.value0 + n * 8 + place.lane % 4 * 2;
      target[column] = state.out[n][2 * r] * factor;
      target[column + 1] = state.out[n][2 * r + 1] * factor;
    }
    if (place.value0 == 0 && place.lane % 4 == 0) {
      a.partial_lse[at] = state.sum[r] > 0.0F ? state.largest[r] + log2f(state.sum[r]) : -INFINITY;
    }
  }
}

template <class Tile>
__device__ __forceinline__ void clearPadding(Attention const& a, BlockWork const& work) {
  using T = typename Tile::T;
  HlaAttentionParams const& p = a.params;
  if (work.firsts || work.split != 0) return;
  constexpr int kVec = kVectorSize<T>, kVectors = Tile::kV / kVec;
  for (int i = static_cast<int>(threadIdx.x); i < a.candidates * kVectors; i += Tile::kThreads) {
    int const candidate = i / kVectors, token = tokenOf(a, work, candidate);
    if (token < work.tokens || token >= p.seq) continue;
    int const head = work.kv_head * a.group + (work.candidate0 + candidate) % a.group;
    T* const y = static_cast<T*>(p.y) + ((work.b * p.seq + token) * p.heads + head) * Tile::kV;
    Vector<T, kVec> zeros;
#pragma unroll
    for (int j = 0; j < kVec; ++j) zeros.value[j] = fromFloat<T>(0.0F);
    *reinterpret_cast<Vector<T, kVec>*>(y + i % kVectors * kVec) = zeros;
  }
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads) hlaAttentionKernel(Attention const a) {
  R1TRT_SHARED(BlockShared<Tile::kRows>, shared);
  R1TRT_DYNAMIC_SHARED(memory);
  BlockWork const work = findWork(a);
  clearPadding<Tile>(a, work);
  if (threadIdx.x < kWarpSize) listRows(a, work, shared.list);
  __syncthreads();

  int const with_full = shared.list.full_only + shared.list.both;
  int const listed = with_full + shared.list.block_only;
  for (int row0 = 0; row0 < listed; row0 += Tile::kRows) {
    int const count = min(Tile::kRows, listed - row0);
    __syncthreads();  // the tile before is done with the rows and queries
    for (int i = static_cast<int>(threadIdx.x); i < Tile::kRows; i += Tile::kThreads) {
      shared.rows[i] = i < count ? rowOf(a, work, shared.list.candidate[row0 + i]) : Row{};
    }
    __syncthreads();
    loadQueries<Tile>(a, work, shared.rows, memory);

    bool const block_branch = row0 + count > shared.list.full_only, full_branch = row0 < with_full;
    State<Tile> state;
    if (block_branch) {
      attend<Tile, true>(a, work, shared.rows, count, memory, state);
      if (a.splits > 1) {
        storePartial<Tile>(a, work, shared.rows, state, 1);
      } else {
        storeOutput<Tile>(a, work, shared.rows, state, true, false);
      }
    }
    if (full_branch) {
      attend<Tile, false>(a, work, shared.rows, count, memory, state);
      if (a.splits > 1) {
        storePartial<Tile>(a, work, shared.rows, state, 0);
      } else {
        storeOutput<Tile>(a, work, shared.rows, state, false, block_branch);
      }
    }
    copyWait<0>();
  }
}

template <class Tile>
cudaError_t runAttention(Attention const& a, cudaStream_t stream) {
  HlaAttentionParams const& p = a.params;
  dim3 const grid(static_cast<unsigned>(a.chunks + a.first_chunks),
                  static_cast<unsigned>(p.kv_heads * a.splits), static_cast<unsigned>(p.batch));
  return launch({"hla_attention", grid, Tile::kThreads, Tile::kSharedBytes}, stream, hlaAttentionKernel<Tile>,
                a);
}

// Tiles of 64 rows, or of 16 whose keys are shared by four warps, by element type.
template <int kQk, int kV, int kKeys>
cudaError_t runPlain(Attention const& a, bool small, cudaStream_t stream) {
  if (a.params.data_type == DataType::kBFloat16) {
    using T = __nv_bfloat16;
    return small ? runAttention<Tile<T, kQk, kV, false, 64, 1, 4, 1>>(a, stream)
                 : runAttention<Tile<T, kQk, kV, false, kKeys, 4, 1, 1>>(a, stream);
  }
  using T = __half;
  return small ? runAttention<Tile<T, kQk, kV, false, 64, 1, 4, 1>>(a, stream)
               : runAttention<Tile<T, kQk, kV, false, kKeys, 4, 1, 1>>(a, stream);
}

}  // namespace r1trt::kernels::hla
