// Experts and weights of every token, and the rows and tiles that follow from them.
//
// A block routes a stretch of tokens, one warp a token, and counts its experts. Where one block does not take
// all tokens, a second kernel adds up the counts: every block those of all, for they are 64 KB at most.
// Bytes: 4 E + 12 K a token, 9 MB for 8192 of 256 experts; what bounds it is the instructions of select.cuh.
#include "select.cuh"

namespace r1trt::kernels::moe {

cudaError_t launchRouterLogits(Layer const& layer, cudaStream_t stream);

namespace {

constexpr int kMostWarps = 32;
constexpr int kLeastWarps = kMaxExperts / kWarpSize;  // thread e lays out expert e's rows
constexpr int kPassTokens = 64;                       // two words of mask bits
constexpr int kMaskWords = kPassTokens / 32;
constexpr int kRowsWarps = 16;
constexpr int kRowsThreads = kRowsWarps * kWarpSize;
constexpr int kCountVector = 8;  // counts of one access
constexpr int kCountsAtOnce = kMostRouterBlocks / kRowsWarps;

// Where experts begin.
struct Layout {
  int32_t first[kMaxExperts];     // row of the block's first token
  int32_t tile[kMaxExperts + 2];  // with that of the group behind them
  int64_t warp_sum[kLeastWarps];
};

struct RouterShared {
  float memory[kMostWarps][kMaxExperts];
  int32_t chosen[kMostWarps][kMaxTopK];
  uint32_t mask[kMaskWords][kMaxExperts];  // bit t: token t of this pass takes the expert
  int32_t earlier[kMaxExperts];            // tokens of the passes before
  int16_t expert[kPassTokens][kMaxTopK];
  Layout layout;
};

struct RowsShared {
  int32_t all[kRowsWarps][kMaxExperts];
  int32_t before[kRowsWarps][kMaxExperts];
  Layout layout;
};

__device__ __forceinline__ int laneIndex() {
  return static_cast<int>(threadIdx.x) % kWarpSize;
}
__device__ __forceinline__ int warpIndex() {
  return static_cast<int>(threadIdx.x) / kWarpSize;
}

// Tokens of this block from its `first` on.
__device__ __forceinline__ int tokensFrom(RouterProblem const& p, int first) {
  int64_t const left = p.tokens - static_cast<int64_t>(blockIdx.x) * p.tokens_per_block - first;
  int64_t const most = p.tokens_per_block - first;
  return static_cast<int>(left < most ? left : most);
}

__device__ __forceinline__ bool isToken(DynamicMoeParams const& p, int64_t token) {
  if (p.seq_len == nullptr) return true;
  uint32_t const index = static_cast<uint32_t>(token), seq = static_cast<uint32_t>(p.seq);
  uint32_t const row = p.batch == 1 ? 0 : index / seq;
  return static_cast<int64_t>(index - row * seq) < p.seq_len[row];
}

// Token t of a pass.
template <int kPerLane>
__device__ __forceinline__ void routeToken(RouterProblem const& p, RouterShared& shared, int64_t token, int t,
                                           float const (&bias)[kPerLane]) {
  int const lane = laneIndex(), warp = warpIndex(), top_k = p.params.top_k;
  float value[kPerLane];
  loadLogits(p, token, lane, value);
  Choice choice{-1, 0.0F};
  if (isToken(p.params, token)) {  // the same in every lane
    choice = chooseExperts(p, lane, value, bias, shared.memory[warp], shared.chosen[warp]);
  }
  if (lane >= top_k) return;
  p.routing.expert[token * top_k + lane] = choice.expert;
  p.routing.weight[token * top_k + lane] = choice.weight;
  shared.expert[t][lane] = static_cast<int16_t>(choice.expert);
  if (choice.expert >= 0) atomicOr(&shared.mask[t / 32][choice.expert], 1U << (t % 32));
}

__device__ __forceinline__ int countOf(RouterShared const& shared, int e) {
  int count = 0;
#pragma unroll
  for (int word = 0; word < kMaskWords; ++word) count += __popc(shared.mask[word][e]);
  return count;
}

// A token's rank among the block's tokens of an expert: no order of the atomics can change it.
__device__ __forceinline__ int rankOf(RouterShared const& shared, int t, int e) {
  int rank = shared.earlier[e];
#pragma unroll
  for (int word = 0; word < kMaskWords; ++word) {
    uint32_t const earlier = t >= (word + 1) * 32 ? kAllLanes : t < word * 32 ? 0 : (1U << (t % 32)) - 1U;
    rank += __popc(shared.mask[word][e] & earlier);
  }
  return rank;
}

// Rows of the pass's tokens: relative to the block's, or by `first` the rows themselves.
__device__ __forceinline__ void writeRows(RouterProblem const& p, RouterShared const& shared, int64_t token0,
                                          int tokens, int32_t const* first) {
  int const top_k = p.params.top_k;
  for (int i = static_cast<int>(threadIdx.x); i < tokens * kMaxTopK; i += static_cast<int>(blockDim.x)) {
    int const t = i / kMaxTopK, k = i % kMaxTopK;
    if (k >= top_k) continue;
    int const e = shared.expert[t][k];
    int const base = e >= 0 && first != nullptr ? first[e] : 0;
    p.routing.row[(token0 + t) * top_k + k] = e >= 0 ? base + rankOf(shared, t, e) : -1;
  }
}

// Sums of all values in front of the thread's, for threads below kMaxExperts; every thread comes in.
__device__ __forceinline__ int64_t exclusiveScan(int64_t value, int64_t* warp_sum) {
  int const lane = laneIndex(), warp = warpIndex();
  int64_t sum = value;
  if (warp < kLeastWarps) {
#pragma unroll
    for (int distance = 1; distance < kWarpSize; distance *= 2) {
      int64_t const other = __shfl_up_sync(kAllLanes, sum, static_cast<unsigned>(distance));
      if (lane >= distance) sum += other;
    }
    if (lane == kWarpSize - 1) warp_sum[warp] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kLeastWarps; ++w) {
    if (w < warp) sum += warp_sum[w];
  }
  return sum - value;
}

// Where the experts end, and the shared expert behind them: its rows are the tokens in their order.
__device__ __forceinline__ void layOutBehind(RouterProblem const& p, Layout& layout, int row, int tile) {
  int const experts = p.params.experts, ends = p.shared_rows > 0 ? 2 : 1;
  for (int i = 0; i < ends; ++i) {
    layout.tile[experts + i] = tile;
    if (blockIdx.x == 0) {
      p.routing.offset[experts + i] = row;
      p.routing.tile_offset[experts + i] = tile;
    }
    row += p.shared_rows;
    tile += ceilDiv(p.shared_rows, p.tile_rows);
  }
}

// Lays out experts by their tokens: thread e has expert e's, those of all blocks and of blocks before this
// one.
__device__ __forceinline__ void layOutExperts(RouterProblem const& p, Layout& layout, int all, int before) {
  int const e = static_cast<int>(threadIdx.x), experts = p.params.experts;
  int const tiles = ceilDiv(all, p.tile_rows);
  // Rows and tiles in one scan: neither sum has more than 31 bits.
  int64_t const both = exclusiveScan(static_cast<int64_t>(tiles) << 32 | all, layout.warp_sum);
  if (e < experts) {
    int const first = static_cast<int>(both & 0xFFFFFFFF), first_tile = static_cast<int>(both >> 32);
    layout.first[e] = first + before;
    layout.tile[e] = first_tile;
    if (blockIdx.x == 0) {
      p.routing.offset[e] = first;
      p.routing.tile_offset[e] = first_tile;
    }
    if (e == experts - 1) layOutBehind(p, layout, first + all, first_tile + tiles);
  }
  __syncthreads();
}

// Every warp of the grid names the tiles of some groups.
__device__ __forceinline__ void writeTiles(RouterProblem const& p, Layout const& layout) {
  int const warps = static_cast<int>(blockDim.x) / kWarpSize;
  int const groups = p.params.experts + (p.shared_rows > 0 ? 1 : 0);
  for (int e = static_cast<int>(blockIdx.x) * warps + warpIndex(); e < groups;
       e += static_cast<int>(gridDim.x) * warps) {
    for (int tile = layout.tile[e] + laneIndex(); tile < layout.tile[e + 1]; tile += kWarpSize) {
      p.routing.tile_expert[tile] = e;
    }
  }
}

template <int kPerLane>
__global__ void __launch_bounds__(kMostWarps* kWarpSize, 1) routerKernel(RouterProblem const p) {
  R1TRT_SHARED(RouterShared, shared);
  int const e = static_cast<int>(threadIdx.x), warps = static_cast<int>(blockDim.x) / kWarpSize;
  int64_t const token0 = static_cast<int64_t>(blockIdx.x) * p.tokens_per_block;
  float bias[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    bias[i] = laneIndex() * kPerLane + i < p.params.experts ? 0.0F : -INFINITY;
  }
  if (p.params.router_bias != nullptr) {
    loadLane(p.params.router_bias, p.params.experts, laneIndex(), -INFINITY, bias);
  }
  int count = 0;
  bool const alone = gridDim.x == 1;
  startNextGrid();
  waitForLastGrid();
  for (int first = 0;; first += kPassTokens) {
    if (e < kMaxExperts) {
      shared.earlier[e] = count;
#pragma unroll
      for (int word = 0; word < kMaskWords; ++word) shared.mask[word][e] = 0;
    }
    __syncthreads();
    int const left = tokensFrom(p, first), tokens = left < kPassTokens ? left : kPassTokens;
    for (int t = warpIndex(); t < tokens; t += warps) routeToken(p, shared, token0 + first + t, t, bias);
    __syncthreads();
    if (e < kMaxExperts) count += countOf(shared, e);
    if (!alone) writeRows(p, shared, token0 + first, tokens, nullptr);
    if (left <= kPassTokens) break;
    __syncthreads();
  }
  if (alone) {
    layOutExperts(p, shared.layout, count, 0);
    writeRows(p, shared, token0, tokensFrom(p, 0), shared.layout.first);
    writeTiles(p, shared.layout);
  } else if (e < countPitch(p.params.experts)) {
    p.routing.count[blockIdx.x * static_cast<int64_t>(countPitch(p.params.experts)) + e] =
        static_cast<uint16_t>(count);
  }
}

// Adds up the blocks' counts: all of them, and those before this block.
__device__ __forceinline__ void sumCounts(RouterProblem const& p, RowsShared& shared) {
  using Counts = Vector<uint16_t, kCountVector>;
  int const lane = laneIndex(), pitch = countPitch(p.params.experts), blocks = static_cast<int>(gridDim.x);
  int all[kCountVector] = {}, before[kCountVector] = {};
  for (int block0 = warpIndex(); block0 < blocks; block0 += kCountsAtOnce * kRowsWarps) {
    Counts counts[kCountsAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kCountsAtOnce; ++i) {
      int64_t const block = block0 + i * kRowsWarps;
      if (block < blocks && lane * kCountVector < pitch) {
        counts[i] = *reinterpret_cast<Counts const*>(p.routing.count + block * pitch + lane * kCountVector);
      }
    }
#pragma unroll
    for (int i = 0; i < kCountsAtOnce; ++i) {
      bool const earlier = block0 + i * kRowsWarps < static_cast<int>(blockIdx.x);
#pragma unroll
      for (int j = 0; j < kCountVector; ++j) {
        all[j] += counts[i].value[j];
        before[j] += earlier ? counts[i].value[j] : 0;
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kCountVector; ++j) {
    shared.all[warpIndex()][lane * kCountVector + j] = all[j];
    shared.before[warpIndex()][lane * kCountVector + j] = before[j];
  }
}

// From rows relative to a block's to rows.
__global__ void __launch_bounds__(kRowsThreads) routerRowsKernel(RouterProblem const p) {
  R1TRT_SHARED(RowsShared, shared);
  int const e = static_cast<int>(threadIdx.x);
  int64_t const entry0 = static_cast<int64_t>(blockIdx.x) * p.tokens_per_block * p.params.top_k;
  int const entries = tokensFrom(p, 0) * p.params.top_k;
  waitForLastGrid();
  // On their way while the counts are added.
  int expert = e < entries ? p.routing.expert[entry0 + e] : -1;
  int rank = e < entries ? p.routing.row[entry0 + e] : 0;
  sumCounts(p, shared);
  __syncthreads();
  int all = 0, before = 0;
  if (e < kMaxExperts) {
#pragma unroll
    for (int w = 0; w < kRowsWarps; ++w) {
      all += shared.all[w][e];
      before += shared.before[w][e];
    }
  }
  layOutExperts(p, shared.layout, all, before);
  for (int i = e; i < entries; i += kRowsThreads) {
    if (i != e) {
      expert = p.routing.expert[entry0 + i];
      rank = p.routing.row[entry0 + i];
    }
    if (expert >= 0) p.routing.row[entry0 + i] = shared.layout.first[expert] + rank;
  }
  writeTiles(p, shared.layout);
}

// Lanes that hold a group of `size` experts, if they hold nothing else and are a power of 2.
int groupLanes(int size, int per_lane) {
  int const lanes = size / per_lane;
  return size % per_lane == 0 && (lanes & (lanes - 1)) == 0 ? lanes : 0;
}

template <int kPerLane>
cudaError_t run(RouterProblem problem, bool overlap, cudaStream_t stream) {
  DynamicMoeParams const& p = problem.params;
  problem.group_lanes = groupLanes(p.experts / p.n_group, kPerLane);
  unsigned const blocks = static_cast<unsigned>(ceilDiv<int64_t>(problem.tokens, problem.tokens_per_block));
  int const most = problem.tokens_per_block < kMostWarps ? problem.tokens_per_block : kMostWarps;
  unsigned const threads = static_cast<unsigned>((most > kLeastWarps ? most : kLeastWarps) * kWarpSize);
  cudaError_t const error =
      launch({"moe_router", dim3(blocks), threads, 0, overlap}, stream, routerKernel<kPerLane>, problem);
  if (error != cudaSuccess || blocks == 1) return error;
  return launch({"moe_router_rows", dim3(blocks), kRowsThreads, 0, overlap}, stream, routerRowsKernel,
                problem);
}

}  // namespace

cudaError_t launchRouter(Layer const& layer, cudaStream_t stream) {
  if (cudaError_t const error = launchRouterLogits(layer, stream); error != cudaSuccess) return error;
  RouterProblem const problem{layer.params,
                              layer.workspace.routing,
                              layer.tokens,
                              tokensPerRouterBlock(layer.tokens),
                              logitSlices(layer.tokens, layer.params.hidden),
                              layer.tokens * layer.params.experts,
                              0,
                              layer.tile_rows,
                              layer.grouped ? static_cast<int32_t>(layer.tokens) : 0};
  bool const overlap = layer.sm >= kFirstOverlapArchitecture;
  int const experts = layer.params.experts;
  if (experts <= kWarpSize) return run<1>(problem, overlap, stream);
  if (experts <= 2 * kWarpSize) return run<2>(problem, overlap, stream);
  if (experts <= 4 * kWarpSize) return run<4>(problem, overlap, stream);
  return run<8>(problem, overlap, stream);
}

}  // namespace r1trt::kernels::moe
