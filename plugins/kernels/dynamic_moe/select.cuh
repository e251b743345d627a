// The routing of one token by a warp: scores, best groups, top k, adaptive k. Lane i holds the kPerLane
// experts from i * kPerLane on, so that of equal scores the lower lane's comes first, and no comparison needs
// an index.
//
// Of 256 experts in 8 groups, about 400 instructions a token; most of the time goes into the chain of top_k
// reductions over the warp.
#pragma once

#include "../common/numeric.cuh"
#include "stages.cuh"

namespace r1trt::kernels::moe {

constexpr int kMostPerLane = kMaxExperts / kWarpSize;
constexpr int kHalvedPerLane = kMostPerLane / 2;  // candidates of a lane when at most half of 256 are left

struct RouterProblem {
  DynamicMoeParams params;
  Routing routing;
  int64_t tokens;
  int32_t tokens_per_block;
  int32_t slices;        // of the logits, to be added
  int64_t slice_stride;  // T * E
  int32_t group_lanes;   // that hold one group, a power of 2; 0: groups do not end where lanes do
  int32_t tile_rows;
  int32_t shared_rows;  // of the group behind the experts; 0: none
};

// Larger for what is taken first. 0 stands for what is taken already.
__device__ __forceinline__ uint32_t orderKey(float value) {
  uint32_t const bits = __float_as_uint(value);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// Of one access.
template <int kPerLane>
constexpr int kLaneVector = kPerLane < 4 ? kPerLane : 4;

// A row's values from the first-th on of this lane's; `outside` beyond the last expert.
template <int kPerLane>
__device__ __forceinline__ Vector<float, kLaneVector<kPerLane>> loadVector(float const* row, int experts,
                                                                           int lane, int first,
                                                                           float outside) {
  using Values = Vector<float, kLaneVector<kPerLane>>;
  int const e = lane * kPerLane + first;
  if (experts == kPerLane * kWarpSize) return *reinterpret_cast<Values const*>(row + e);  // aligned
  Values part;
#pragma unroll
  for (int i = 0; i < kLaneVector<kPerLane>; ++i) part.value[i] = e + i < experts ? row[e + i] : outside;
  return part;
}

// All of this lane's values.
template <int kPerLane>
__device__ __forceinline__ void loadLane(float const* row, int experts, int lane, float outside,
                                         float (&value)[kPerLane]) {
#pragma unroll
  for (int i = 0; i < kPerLane; i += kLaneVector<kPerLane>) {
    auto const part = loadVector<kPerLane>(row, experts, lane, i, outside);
#pragma unroll
    for (int j = 0; j < kLaneVector<kPerLane>; ++j) value[i + j] = part.value[j];
  }
}

template <int kPerLane>
__device__ __forceinline__ void storeLane(float* row, int lane, float const (&value)[kPerLane]) {
  constexpr int kVec = kLaneVector<kPerLane>;
#pragma unroll
  for (int i = 0; i < kPerLane; i += kVec) {
    Vector<float, kVec> part;
#pragma unroll
    for (int j = 0; j < kVec; ++j) part.value[j] = value[i + j];
    *reinterpret_cast<Vector<float, kVec>*>(row + lane * kPerLane + i) = part;
  }
}

// The token's logits: slices in their order.
template <int kPerLane>
__device__ __forceinline__ void loadLogits(RouterProblem const& p, int64_t token, int lane,
                                           float (&value)[kPerLane]) {
  int const experts = p.params.experts;
  float const* const row = p.routing.logits + token * experts;
  loadLane(row, experts, lane, 0.0F, value);
  if (p.slices == 1) return;
#pragma unroll
  for (int i = 0; i < kPerLane; i += kLaneVector<kPerLane>) {
    Vector<float, kLaneVector<kPerLane>> part[kLogitSlices];
#pragma unroll
    for (int s = 1; s < kLogitSlices; ++s) {
      int64_t const there = s < p.slices ? s : 0;  // one that is not there is another, and not added
      part[s] = loadVector<kPerLane>(row + there * p.slice_stride, experts, lane, i, 0.0F);
    }
#pragma unroll
    for (int s = 1; s < kLogitSlices; ++s) {
#pragma unroll
      for (int j = 0; j < kLaneVector<kPerLane>; ++j) value[i + j] += s < p.slices ? part[s].value[j] : 0.0F;
    }
  }
}

// Logits become scores. What stands beyond the last expert does not matter: its bias is -infinity.
template <int kPerLane>
__device__ __forceinline__ void scoreExperts(RouterProblem const& p, int lane, float (&value)[kPerLane]) {
  if (p.params.scoring == Scoring::kSigmoid) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) value[i] = fastReciprocal(1.0F + fastExp(-value[i]));
    return;
  }
  float largest = -INFINITY, total = 0.0F;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (lane * kPerLane + i >= p.params.experts) value[i] = -INFINITY;
    largest = fmaxf(largest, value[i]);
  }
  largest = warpMax(largest);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    value[i] = fastExp(value[i] - largest);
    total += value[i];
  }
  float const unit = 1.0F / warpSum(total);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) value[i] *= unit;
}

struct TopTwo {
  float first = -INFINITY, second = -INFINITY;

  __device__ __forceinline__ void add(float value) {
    second = fmaxf(second, fminf(first, value));
    first = fmaxf(first, value);
  }
};

// Of this lane's group where groups end with lanes; of group `lane` otherwise.
template <int kPerLane>
__device__ __forceinline__ TopTwo topOfGroup(RouterProblem const& p, int lane, float* memory,
                                             float const (&selection)[kPerLane]) {
  TopTwo top;
  if (p.group_lanes > 0) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) top.add(selection[i]);
    for (int distance = 1; distance < p.group_lanes; distance *= 2) {
      float const first = __shfl_xor_sync(kAllLanes, top.first, distance);
      float const second = __shfl_xor_sync(kAllLanes, top.second, distance);
      top.add(first);
      top.second = fmaxf(top.second, second);
    }
    return top;
  }
  storeLane(memory, lane, selection);
  __syncwarp();
  int const size = p.params.experts / p.params.n_group;
  for (int i = 0; i < size && lane < p.params.n_group; ++i) top.add(memory[lane * size + i]);
  __syncwarp();
  return top;
}

// Bit i: lane i's group is among the best, lane i being in it or, where groups do not end with lanes, the
// group.
template <int kPerLane>
__device__ __forceinline__ uint32_t bestGroups(RouterProblem const& p, int lane, float* memory,
                                               float const (&selection)[kPerLane]) {
  DynamicMoeParams const& params = p.params;
  TopTwo const top = topOfGroup(p, lane, memory, selection);
  bool const one = params.topk_method == TopkMethod::kGroupLimitedGreedy || params.experts == params.n_group;
  uint32_t const mine = orderKey(one ? top.first : top.first + top.second);
  int const lanes = p.group_lanes > 0 ? p.group_lanes : 1;
  int better = 0;
#pragma unroll 4
  for (int g = 0; g < params.n_group; ++g) {
    uint32_t const other = __shfl_sync(kAllLanes, mine, g * lanes);
    better += other > mine || (other == mine && (g + 1) * lanes <= lane) ? 1 : 0;
  }
  return __ballot_sync(kAllLanes, lane < params.n_group * lanes && better < params.topk_group ? 1 : 0);
}

// Descending; of equal keys the first stays the first.
template <int kCount>
__device__ __forceinline__ void sortKeys(uint32_t (&key)[kCount], int (&index)[kCount]) {
#pragma unroll
  for (int round = 0; round < kCount; ++round) {
#pragma unroll
    for (int i = round % 2; i + 1 < kCount; i += 2) {
      bool const swap = key[i] < key[i + 1];
      uint32_t const low = swap ? key[i] : key[i + 1];
      int const low_index = swap ? index[i] : index[i + 1];
      key[i] = swap ? key[i + 1] : key[i];
      index[i] = swap ? index[i + 1] : index[i];
      key[i + 1] = low;
      index[i + 1] = low_index;
    }
  }
}

// chosen[k]: the k-th candidate's place, that of a lane's i-th key being lane * kCount + i.
template <int kCount>
__device__ __forceinline__ void topKeys(uint32_t (&key)[kCount], int top_k, int lane, int32_t* chosen) {
  uint32_t const lower_lanes = (1U << lane) - 1U;
  int index[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) index[i] = lane * kCount + i;
  sortKeys(key, index);
  for (int k = 0; k < top_k; ++k) {
    bool const highest = key[0] == warpMaxKey(key[0]);
    if ((__ballot_sync(kAllLanes, highest ? 1 : 0) & lower_lanes) != 0 || !highest) continue;
    chosen[k] = index[0];
#pragma unroll
    for (int i = 0; i + 1 < kCount; ++i) {
      key[i] = key[i + 1];
      index[i] = index[i + 1];
    }
    key[kCount - 1] = 0;
  }
}

// The k-th candidate in lane k. `groups` is what bestGroups returned. Leaves the scores in `memory`.
template <int kPerLane>
__device__ __forceinline__ int topExperts(RouterProblem const& p, int lane, float const (&score)[kPerLane],
                                          float const (&selection)[kPerLane], uint32_t groups, float* memory,
                                          int32_t* chosen) {
  storeLane(memory, lane, score);
  uint32_t key[kPerLane];
  int const size = p.params.experts / p.params.n_group;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    int const group = p.group_lanes > 0 ? lane : (lane * kPerLane + i) / size;
    bool const taken = groups == kAllLanes || (group < kWarpSize && (groups >> group & 1U) != 0);
    key[i] = orderKey(taken ? selection[i] : -INFINITY);
  }
  topKeys(key, p.params.top_k, lane, chosen);
  __syncwarp();
  return lane < p.params.top_k ? chosen[lane] : 0;
}

// The same where at most half of the lanes are in the best groups: their keys are shared by all lanes.
__device__ __forceinline__ int topExpertsOfHalf(RouterProblem const& p, int lane,
                                                float const (&score)[kMostPerLane],
                                                float const (&selection)[kMostPerLane], uint32_t groups,
                                                float* memory, int32_t* chosen) {
  auto* const source = reinterpret_cast<int32_t*>(memory + kMaxExperts / 2);
  int const place = __popc(groups & ((1U << lane) - 1U));
  if ((groups >> lane & 1U) != 0) {
    storeLane(memory + (place - lane) * kMostPerLane, lane, selection);
    source[place] = lane;
  }
  __syncwarp();
  float value[kHalvedPerLane];
  uint32_t key[kHalvedPerLane];
  loadLane<kHalvedPerLane>(memory, kMaxExperts / 2, lane, 0.0F, value);
  int const source_lane = source[lane];
  bool const filled = lane * kHalvedPerLane < __popc(groups) * kMostPerLane;
#pragma unroll
  for (int i = 0; i < kHalvedPerLane; ++i) key[i] = filled ? orderKey(value[i]) : 0;
  __syncwarp();  // the keys are read before the scores overwrite them
  storeLane(memory, lane, score);
  topKeys(key, p.params.top_k, lane, chosen);
  __syncwarp();
  int const at = lane < p.params.top_k ? chosen[lane] : 0;
  return __shfl_sync(kAllLanes, source_lane, at / kMostPerLane) * kMostPerLane + at % kMostPerLane;
}

struct Choice {
  int expert;  // -1: none
  float weight;
};

// Lane k's: adaptive k drops what comes after enough weight.
__device__ __forceinline__ Choice weigh(DynamicMoeParams const& p, int lane, int expert, float score) {
  bool kept = lane < p.top_k;
  score = kept ? score : 0.0F;
  if (p.adaptive_threshold < 1.0F) {
    float total = 0.0F, before = 0.0F;
    for (int k = 0; k < p.top_k; ++k) {
      float const s = __shfl_sync(kAllLanes, score, k);
      if (k < lane) before += s;
      total += s;
    }
    kept = kept && (lane < p.top_k_min || before < p.adaptive_threshold * total);
  }
  float sum = kept ? score : 0.0F;
#pragma unroll
  for (int distance = kMaxTopK / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, distance);
  }
  float const weight = p.norm_topk_prob ? score / (sum + 1e-20F) : score;
  return {kept ? expert : -1, kept ? weight * p.routed_scaling_factor : 0.0F};
}

// The choice of lane k < top_k. `memory` has room for kMaxExperts, `chosen` for kMaxTopK; both are the
// warp's.
template <int kPerLane>
__device__ __forceinline__ Choice chooseExperts(RouterProblem const& p, int lane, float (&value)[kPerLane],
                                                float const (&bias)[kPerLane], float* memory,
                                                int32_t* chosen) {
  DynamicMoeParams const& params = p.params;
  scoreExperts(p, lane, value);
  float selection[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) selection[i] = value[i] + bias[i];

  bool const grouped = params.topk_method != TopkMethod::kGreedy && params.n_group > 1;
  uint32_t const groups = grouped ? bestGroups(p, lane, memory, selection) : kAllLanes;
  int expert = 0;
  bool halved = false;
  if constexpr (kPerLane == kMostPerLane) {
    halved = p.group_lanes > 0 && __popc(groups) <= kWarpSize / 2;
    if (halved) expert = topExpertsOfHalf(p, lane, value, selection, groups, memory, chosen);
  }
  if (!halved) expert = topExperts(p, lane, value, selection, groups, memory, chosen);

  expert = expert < params.experts ? expert : params.experts - 1;  // numbers that are not: any expert
  Choice const choice = weigh(params, lane, expert, memory[expert]);
  __syncwarp();  // the scores are read before the next token's overwrite them
  return choice;
}

}  // namespace r1trt::kernels::moe
