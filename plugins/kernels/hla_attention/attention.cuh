// Flash attention of one key/value head's rows over one branch's keys after the other, by mma.sync.
//
// A block compacts its rows by lam, so that whole tiles of them skip a branch (`listRows` has an example);
// first tokens of blocks are gathered into their own part of the key tiles, so that the block branch reads
// nothing but what it needs.
//
// FLOPs: 2 (dqk + dv) a row and key that it sees. Bytes: queries and output once, and for each tile of rows
// the keys and values that one of them sees. In prefill the tensor cores are the bound, in decoding the
// cache's bytes.
#pragma once

#include "../common/numeric.cuh"
#include "rows.cuh"
#include "softmax.cuh"
#include "tile.cuh"

namespace r1trt::kernels::hla {

// One branch of one tile of rows, over this split's part of the keys.
template <class Tile, bool kBlockBranch>
__device__ __forceinline__ void attend(Attention const& a, BlockWork const& work, Row const* rows, int count,
                                       char* memory, SoftmaxState<Tile>& state) {
  WarpPlace const place = warpPlace<Tile>();
  Row const mine[2] = {rows[place.row0 + place.lane / 4], rows[place.row0 + place.lane / 4 + 8]};
  KeyList const keys = keysOf<Tile::kRows>(a, rows, count, kBlockBranch);
  Visible const visible[2] = {visibleTo<kBlockBranch>(mine[0], keys), visibleTo<kBlockBranch>(mine[1], keys)};
  int const tiles = ceilDiv(keys.size, Tile::kKeys);
  int const first = static_cast<int>(static_cast<int64_t>(tiles) * work.split / a.splits);
  int const end = static_cast<int>(static_cast<int64_t>(tiles) * (work.split + 1) / a.splits);
  // A warp whose rows have no weight in this branch only helps to load.
  bool const needed =
      kBlockBranch ? mine[0].lam < 1.0F || mine[1].lam < 1.0F : mine[0].lam > 0.0F || mine[1].lam > 0.0F;
  bool const warp_needed = __any_sync(kAllLanes, needed ? 1 : 0) != 0;
  state = SoftmaxState<Tile>{{}, {-INFINITY, -INFINITY}, {0.0F, 0.0F}};

  char* const queries = memory;
  char* const stages = memory + Tile::kQueryBytes;
  auto stageOf = [&](int tile) { return stages + tile % kStages * Tile::kStageBytes; };
  __syncthreads();  // the stages are free
  if (first < end) loadKeys<Tile>(a, work, keys, first * Tile::kKeys, stageOf(first));
  copyCommit();
  for (int tile = first; tile < end; ++tile) {
    char* const stage = stageOf(tile);
    copyWait<0>();
    __syncthreads();  // this tile has landed for all; the other stage is free
    if (tile + 1 < end) loadKeys<Tile>(a, work, keys, (tile + 1) * Tile::kKeys, stageOf(tile + 1));
    copyCommit();
    if (!warp_needed) continue;
    float s[Tile::kKeyTiles][4] = {};
    scoreKeys<Tile>(queries, stage, place, s);
    updateSoftmax<Tile, kBlockBranch>(a.scale_log2, visible, tile * Tile::kKeys + place.key0, place.lane, s,
                                      state);
    addValues<Tile>(Tile::kLatent ? stage : stage + Tile::kKeyBytes, place, s, state);
  }
  copyWait<0>();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.l[r] += __shfl_xor_sync(kAllLanes, state.l[r], 1);
    state.l[r] += __shfl_xor_sync(kAllLanes, state.l[r], 2);
  }
  if constexpr (Tile::kWarpsKeys > 1) mergeKeys<Tile>(stages, place, state);
}

// Writes a branch's part of y: weighted, and added to what the other branch left there.
template <class Tile>
__device__ __forceinline__ void storeOutput(Attention const& a, BlockWork const& work, Row const* rows,
                                            SoftmaxState<Tile> const& state, bool block_branch, bool add) {
  using T = typename Tile::T;
  HlaAttentionParams const& p = a.params;
  WarpPlace const place = warpPlace<Tile>();
  if (!place.writes) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    Row const& row = rows[place.row0 + place.lane / 4 + r * 8];
    if (row.token < 0) continue;
    float const weight = block_branch ? 1.0F - row.lam : row.lam;
    float const factor = state.l[r] > 0.0F ? weight / state.l[r] : 0.0F;
    T* const y = static_cast<T*>(p.y) + ((work.b * p.seq + row.token) * p.heads + row.head) * Tile::kV;
#pragma unroll
    for (int n = 0; n < Tile::kValueTiles; ++n) {
      auto* const target = reinterpret_cast<Vector<T, 2>*>(y + place.value0 + n * 8 + place.lane % 4 * 2);
      float low = state.o[n][2 * r] * factor, high = state.o[n][2 * r + 1] * factor;
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
                                             SoftmaxState<Tile> const& state, int branch) {
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
    float const factor = state.l[r] > 0.0F ? 1.0F / state.l[r] : 0.0F;
    float* const target = a.partial + at * Tile::kV;
#pragma unroll
    for (int n = 0; n < Tile::kValueTiles; ++n) {
      int const column = place.value0 + n * 8 + place.lane % 4 * 2;
      target[column] = state.o[n][2 * r] * factor;
      target[column + 1] = state.o[n][2 * r + 1] * factor;
    }
    if (place.value0 == 0 && place.lane % 4 == 0) {
      a.partial_lse[at] = state.l[r] > 0.0F ? state.m[r] + log2f(state.l[r]) : -INFINITY;
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
  if (threadIdx.x == 0) shared.work = work;
  listRows<Tile::kThreads>(a, work, shared.list);
  startNextGrid();
  waitForLastGrid();  // new keys and values are in the cache
  __syncthreads();

  // NOTES: what is read from shared memory each time would be spilled if it were kept; with latents, more of
  // it.
  RowList const& list = shared.list;
  BlockWork const& where = Tile::kLatent ? shared.work : work;
  for (int row0 = a.full_elsewhere ? list.full_only : 0; row0 < list.size(); row0 += Tile::kRows) {
    int const count = min(Tile::kRows, list.size() - row0);
    __syncthreads();  // the tile before is done with the rows and queries
    for (int i = static_cast<int>(threadIdx.x); i < Tile::kRows; i += Tile::kThreads) {
      shared.rows[i] = i < count ? rowOf(a, shared.work, list.candidate[row0 + i]) : Row{};
    }
    __syncthreads();
    loadQueries<Tile>(a, where, shared.rows, memory);

    bool const block_branch = row0 + count > list.full_only;
    SoftmaxState<Tile> state;
    if (block_branch) {
      attend<Tile, true>(a, where, shared.rows, count, memory, state);
      if (a.splits > 1) {
        storePartial<Tile>(a, where, shared.rows, state, 1);
      } else {
        storeOutput<Tile>(a, where, shared.rows, state, true, false);
      }
    }
    if (!a.full_elsewhere && row0 < list.full_only + list.both) {
      attend<Tile, false>(a, where, shared.rows, count, memory, state);
      if (a.splits > 1) {
        storePartial<Tile>(a, where, shared.rows, state, 0);
      } else {
        storeOutput<Tile>(a, where, shared.rows, state, false, block_branch);
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
  // NOTES: lam and the lengths are read in front of the wait: the kernel before must be this call's own.
  bool const overlap = a.overlaps && writesCache(p);
  return launch({"hla_attention", grid, Tile::kThreads, Tile::kSharedBytes, overlap}, stream,
                hlaAttentionKernel<Tile>, a);
}

// Tiles of 64 rows, or of 16 whose keys are shared by four warps, by element type.
template <class Head, class KeysOfStage>
cudaError_t runPlain(Attention const& a, bool small, cudaStream_t stream) {
  if (a.params.data_type == DataType::kBFloat16) {
    using T = __nv_bfloat16;
    return small ? runAttention<Tile<T, Head, Keys<64>, Warps<1, 4, 1>>>(a, stream)
                 : runAttention<Tile<T, Head, KeysOfStage, Warps<4, 1, 1>>>(a, stream);
  }
  using T = __half;
  return small ? runAttention<Tile<T, Head, Keys<64>, Warps<1, 4, 1>>>(a, stream)
               : runAttention<Tile<T, Head, KeysOfStage, Warps<4, 1, 1>>>(a, stream);
}

}  // namespace r1trt::kernels::hla
