// Scores, group choice, top k and adaptive k, one warp per token; the histogram of the experts in the same
// kernel, and their offsets and tiles by the last block of it.
#include "../common/numeric.cuh"
#include "stages.cuh"

namespace r1trt::kernels::moe {

cudaError_t launchRouterLogits(Layer const& layer, cudaStream_t stream);

namespace {

constexpr int kWarps = 16;
constexpr int kThreads = kWarps * kWarpSize;
constexpr int kPerLane = kMaxExperts / kWarpSize;  // lane i holds experts i, i + 32, ...
constexpr int kBasesAtOnce = 16;                   // loads under way: a store might alias the next load

struct RouterShared {
  float score[kWarps][kMaxExperts];      // as weight
  float selection[kWarps][kMaxExperts];  // with the bias
  uint32_t mask[kMaxExperts];            // bit t: token t of this block takes the expert
  int32_t scan[kMaxExperts];
  int32_t tile_offset[kMaxExperts + 1];
};

struct RouterProblem {
  DynamicMoeParams params;
  Routing routing;
  int64_t tokens;
  int32_t tile_rows;
};

// Larger for what is taken first: by value, then the lower index. Never 0, which stands for what is taken.
__device__ __forceinline__ uint64_t orderKey(float value, int index) {
  uint32_t bits = __float_as_uint(value + 0.0F);  // -0 and 0 tie
  bits = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return static_cast<uint64_t>(bits) << 32 | (0xFFFFFFFFU - static_cast<uint32_t>(index));
}

__device__ __forceinline__ uint64_t warpMaxKey(uint64_t key) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    uint64_t const other = __shfl_xor_sync(kAllLanes, key, distance);
    key = other > key ? other : key;
  }
  return key;
}

// Fills the warp's scores and selection scores.
__device__ __forceinline__ void scoreExperts(DynamicMoeParams const& p, float const* logits, int lane,
                                             float* score, float* selection) {
  float value[kPerLane], largest = -INFINITY, total = 0.0F;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    int const e = lane + i * kWarpSize;
    value[i] = e < p.experts ? logits[e] : -INFINITY;
    largest = fmaxf(largest, value[i]);
  }
  bool const softmax = p.scoring == Scoring::kSoftmax;
  if (softmax) {
    largest = warpMax(largest);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      value[i] = expf(value[i] - largest);
      total += value[i];
    }
    total = warpSum(total);
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    int const e = lane + i * kWarpSize;
    if (e >= p.experts) continue;
    float const s = softmax ? value[i] / total : 1.0F / (1.0F + expf(-value[i]));
    score[e] = s;
    selection[e] = p.router_bias != nullptr ? s + p.router_bias[e] : s;
  }
  __syncwarp();
}

// Bit g: group g is among the best. Lane g ranks group g.
__device__ __forceinline__ uint32_t bestGroups(DynamicMoeParams const& p, int lane, float const* selection) {
  if (p.topk_method == TopkMethod::kGreedy || p.n_group == 1) return kAllLanes;
  int const size = p.experts / p.n_group;
  float first = -INFINITY, second = -INFINITY;
  for (int i = 0; i < size && lane < p.n_group; ++i) {
    float const s = selection[lane * size + (i + lane) % size];  // lanes start apart: other banks
    second = fmaxf(second, fminf(first, s));
    first = fmaxf(first, s);
  }
  bool const one = p.topk_method == TopkMethod::kGroupLimitedGreedy || size == 1;
  uint64_t const mine = lane < p.n_group ? orderKey(one ? first : first + second, lane) : 0;
  int better = 0;
  for (int g = 0; g < p.n_group; ++g) better += __shfl_sync(kAllLanes, mine, g) > mine ? 1 : 0;
  return __ballot_sync(kAllLanes, lane < p.n_group && better < p.topk_group ? 1 : 0);
}

// The k-th candidate, in lane k.
__device__ __forceinline__ int topExperts(DynamicMoeParams const& p, int lane, float const* selection,
                                          uint32_t groups) {
  int const size = p.experts / p.n_group;
  uint64_t key[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    int const e = lane + i * kWarpSize;
    bool const taken = e < p.experts && (groups >> (e / size) & 1U) != 0;
    key[i] = e < p.experts ? orderKey(taken ? selection[e] : -INFINITY, e) : 0;
  }
  int chosen = -1;
  for (int k = 0; k < p.top_k; ++k) {
    uint64_t best = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) best = key[i] > best ? key[i] : best;
    best = warpMaxKey(best);
    int const e = static_cast<int>(0xFFFFFFFFU - static_cast<uint32_t>(best));
    if (lane == k) chosen = e;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) key[i] = key[i] == best ? 0 : key[i];
  }
  return chosen;
}

// Weight of lane k's candidate; negative where adaptive k drops it.
__device__ __forceinline__ float candidateWeight(DynamicMoeParams const& p, int lane, float score) {
  float total = 0.0F, before = 0.0F;
  for (int k = 0; k < p.top_k; ++k) {
    float const s = __shfl_sync(kAllLanes, score, k);
    if (k < lane) before += s;
    total += s;
  }
  bool const all = p.adaptive_threshold >= 1.0F;
  bool const kept = lane < p.top_k && (all || lane < p.top_k_min || before < p.adaptive_threshold * total);
  float kept_sum = 0.0F;
  for (int k = 0; k < p.top_k; ++k) kept_sum += __shfl_sync(kAllLanes, kept ? score : 0.0F, k);
  float const weight = p.norm_topk_prob ? score / (kept_sum + 1e-20F) : score;
  return kept ? weight * p.routed_scaling_factor : -1.0F;
}

__device__ __forceinline__ bool isToken(RouterProblem const& p, int64_t token) {
  if (token >= p.tokens) return false;
  return p.params.seq_len == nullptr || token % p.params.seq < p.params.seq_len[token / p.params.seq];
}

__device__ __forceinline__ void routeToken(RouterProblem const& p, int64_t token, int in_block, int lane,
                                           float* score, float* selection, uint32_t* mask) {
  DynamicMoeParams const& params = p.params;
  int expert = -1;
  float weight = 0.0F;
  if (isToken(p, token)) {  // the same in every lane
    scoreExperts(params, p.routing.logits + token * params.experts, lane, score, selection);
    expert = topExperts(params, lane, selection, bestGroups(params, lane, selection));
    weight = candidateWeight(params, lane, expert >= 0 ? score[expert] : 0.0F);
    __syncwarp();  // the scores are read before the next token's overwrite them
    if (weight < 0.0F || lane >= params.top_k) expert = -1;
  }
  if (lane < params.top_k && token < p.tokens) {
    p.routing.expert[token * params.top_k + lane] = expert;
    p.routing.weight[token * params.top_k + lane] = weight;
  }
  if (expert >= 0) atomicOr(&mask[expert], 1U << in_block);
}

// Sum of all values before this thread's; `scan` has room for kMaxExperts. Thread e holds expert e.
__device__ __forceinline__ int exclusiveScan(int value, int32_t* scan) {
  int const e = static_cast<int>(threadIdx.x);
  int sum = value;
  for (int distance = 1; distance < kMaxExperts; distance *= 2) {
    if (e < kMaxExperts) scan[e] = sum;
    __syncthreads();
    if (e < kMaxExperts && e >= distance) sum += scan[e - distance];
    __syncthreads();
  }
  return sum - value;
}

// Turns the blocks' counts into bases, and lays out rows and tiles.
__device__ __forceinline__ void layOutRows(RouterProblem const& p, RouterShared& shared, int blocks) {
  int const experts = p.params.experts, e = static_cast<int>(threadIdx.x);
  int count = 0;
  if (e < experts) {
    int32_t* const base = p.routing.block_base + e;
    for (int block0 = 0; block0 < blocks; block0 += kBasesAtOnce) {
      int in_block[kBasesAtOnce];
#pragma unroll
      for (int i = 0; i < kBasesAtOnce; ++i) {
        in_block[i] = block0 + i < blocks ? base[static_cast<int64_t>(block0 + i) * experts] : 0;
      }
#pragma unroll
      for (int i = 0; i < kBasesAtOnce; ++i) {
        if (block0 + i < blocks) base[static_cast<int64_t>(block0 + i) * experts] = count;
        count += in_block[i];
      }
    }
  }
  int const first = exclusiveScan(count, shared.scan);
  int const tiles = ceilDiv(count, p.tile_rows);
  int const first_tile = exclusiveScan(tiles, shared.scan);
  if (e < experts) {
    p.routing.offset[e] = first;
    p.routing.tile_offset[e] = first_tile;
    shared.tile_offset[e] = first_tile;
    if (e == experts - 1) {
      p.routing.offset[experts] = first + count;
      p.routing.tile_offset[experts] = first_tile + tiles;
      shared.tile_offset[experts] = first_tile + tiles;
    }
  }
  __syncthreads();
  for (int tile = e; tile < shared.tile_offset[experts]; tile += kThreads) {
    int low = 0, high = experts - 1;  // the last expert that begins at or before the tile
    while (low < high) {
      int const middle = (low + high + 1) / 2;
      if (shared.tile_offset[middle] <= tile) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    p.routing.tile_expert[tile] = low;
  }
}

__global__ void __launch_bounds__(kThreads) routerKernel(RouterProblem const p) {
  R1TRT_SHARED(RouterShared, shared);
  int const lane = static_cast<int>(threadIdx.x) % kWarpSize,
            warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int64_t const token0 = static_cast<int64_t>(blockIdx.x) * kTokensPerRouterBlock;
  int const top_k = p.params.top_k, experts = p.params.experts;
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kThreads) shared.mask[e] = 0;
  __syncthreads();
  for (int t = warp; t < kTokensPerRouterBlock; t += kWarps) {
    routeToken(p, token0 + t, t, lane, shared.score[warp], shared.selection[warp], shared.mask);
  }
  __syncthreads();

  // A token's rank among the block's tokens of an expert: no order of the atomics can change it.
  for (int i = static_cast<int>(threadIdx.x); i < kTokensPerRouterBlock * top_k; i += kThreads) {
    int64_t const entry = token0 * top_k + i;
    if (entry >= p.tokens * top_k) break;
    int const e = p.routing.expert[entry];
    uint32_t const earlier = (1U << (i / top_k)) - 1U;
    p.routing.rank[entry] = e >= 0 ? __popc(shared.mask[e] & earlier) : 0;
  }
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += kThreads) {
    p.routing.block_base[static_cast<int64_t>(blockIdx.x) * experts + e] = __popc(shared.mask[e]);
  }
  if (isLastBlock(p.routing.ticket, gridDim.x)) layOutRows(p, shared, static_cast<int>(gridDim.x));
}

}  // namespace

cudaError_t launchRouter(Layer const& layer, cudaStream_t stream) {
  if (cudaError_t const error = launchRouterLogits(layer, stream); error != cudaSuccess) return error;
  unsigned const blocks = static_cast<unsigned>(ceilDiv<int64_t>(layer.tokens, kTokensPerRouterBlock));
  RouterProblem const problem{layer.params, layer.workspace.routing, layer.tokens, layer.tile_rows};
  return launch({"moe_router", dim3(blocks), kThreads}, stream, routerKernel, problem);
}

}  // namespace r1trt::kernels::moe
