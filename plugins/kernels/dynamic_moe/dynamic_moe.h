// Mixture of experts with two-stage routing and adaptive k:
//   y[t] = sum over kept experts of weight * expert(x[t]) + shared(x[t]),
//   expert(x) = W_down (silu(W_gate x) * (W_up x)).
//
// Legend: T = B * S tokens, D hidden size, E experts, F expert width, Fs width of all shared experts
// together.
#pragma once

#include "../common/types.h"

namespace r1trt::kernels {

enum class Scoring : int32_t { kSoftmax = 0, kSigmoid = 1 };

enum class TopkMethod : int32_t {
  kGreedy = 0,              // groups are ignored
  kGroupLimitedGreedy = 1,  // a group's score is its highest selection score
  kNoauxTc = 2,             // a group's score is the sum of its two highest
};

// How finely an FP8 weight [rows, columns] of one expert is scaled.
enum class ScaleLayout : int32_t {
  kPerTensor = 0,   // one scale an expert
  kPerChannel = 1,  // one an output row
  kBlock128 = 2,    // one a 128 x 128 block; the last of a row or column may be partial
};

// What FP8 weights are multiplied with.
enum class Fp8Math : int32_t {
  kAuto = 0,        // kFp8 where the tensor cores can (sm_89 on), else kWeightOnly
  kFp8 = 1,         // activations quantized to E4M3, partial sums promoted to FP32 every 128
  kWeightOnly = 2,  // weights widened to the activation type, activations as they are
};

// Where silu(gate) * up is computed.
enum class SwiGlu : int32_t {
  kAuto = 0,      // kSeparate where Hopper's own kernels compute the product, else kFused
  kFused = 1,     // in the product's epilogue: mma.sync on every architecture
  kSeparate = 2,  // by a kernel of its own, from both halves rounded to the activation type
};

// One weight matrix per expert, or of the shared expert. `scale` is null unless the weight is FP8.
struct MoeWeight {
  void const* data = nullptr;
  float const* scale = nullptr;
};

constexpr int32_t kMaxExperts = 256;
constexpr int32_t kMaxTopK = 8;
constexpr int32_t kMaxGroups = 32;
constexpr int32_t kMaxExpertParts = 5;

// The routed experts' weights, in parts along E: no tensor of TensorRT may have 2^31 elements. Parts are
// equal, the first E mod P of them one expert larger; those behind P are not looked at.
struct ExpertWeights {
  MoeWeight part[kMaxExpertParts];
};

struct DynamicMoeParams {
  DataType data_type = DataType::kBFloat16;    // of x and y: kFloat16 or kBFloat16
  DataType weight_type = DataType::kBFloat16;  // of every expert's matrices: data_type or kFloat8E4M3
  ScaleLayout scale_layout = ScaleLayout::kPerTensor;
  Fp8Math fp8_math = Fp8Math::kAuto;

  int32_t batch = 0;         // B
  int32_t seq = 0;           // S
  int32_t hidden = 0;        // D, a multiple of 16 (FP8: also of 16)
  int32_t experts = 0;       // E, at most kMaxExperts
  int32_t expert_parts = 1;  // P, at most kMaxExpertParts and E
  int32_t width = 0;         // F, a multiple of 16
  int32_t shared_width = 0;  // Fs, a multiple of 16; 0: no shared expert

  Scoring scoring = Scoring::kSoftmax;
  TopkMethod topk_method = TopkMethod::kGreedy;
  int32_t top_k = 2;  // at most kMaxTopK
  int32_t top_k_min = 1;
  float adaptive_threshold = 1.0F;  // not negative; >= 1: plain top-k
  bool norm_topk_prob = true;
  float routed_scaling_factor = 1.0F;  // not negative
  int32_t n_group = 1;                 // divides E; at most kMaxGroups
  int32_t topk_group = 1;

  void const* x = nullptr;             // [B, S, D]
  int64_t const* seq_len = nullptr;    // [B]; null: S everywhere. Padding is routed nowhere and gives 0
  float const* w_router = nullptr;     // [E, D]
  float const* router_bias = nullptr;  // [E] or null; moves the selection, never the weights

  // E is that of the part.
  ExpertWeights
      gate_up;         // [E, 2F, D], gate rows first; scales [E], [E, 2F] or [E, ceil(2F/128), ceil(D/128)]
  ExpertWeights down;  // [E, D, F]; scales [E], [E, D] or [E, ceil(D/128), ceil(F/128)]
  MoeWeight shared_gate_up;  // [2Fs, D]; scales [1], [2Fs] or [ceil(2Fs/128), ceil(D/128)]
  MoeWeight shared_down;     // [D, Fs]; scales [1], [D] or [ceil(D/128), ceil(Fs/128)]
  // kBlock128 needs F and Fs to be multiples of 128, so that no block holds rows of both gate and up.

  // Static scales of the activations that enter gate_up and down, of routed and shared experts alike; device
  // pointers to one element. Null: quantized as they come, one scale for 128 consecutive elements of a token.
  // Not read by kWeightOnly.
  float const* x_scale = nullptr;
  float const* mid_scale = nullptr;

  void* y = nullptr;  // [B, S, D]; not x
  void* workspace = nullptr;
  size_t workspace_size = 0;

  int32_t sm = 0;  // compute capability times 10, as 80 or 90; 0: ask the current device
  SwiGlu swiglu = SwiGlu::kAuto;
};

// Workspace for these sizes (pointers are not looked at, except shared_width for the shared expert); grows
// with B and S, so the maxima of an optimization profile give its maximum.
size_t dynamicMoeWorkspaceSize(DynamicMoeParams const& params) noexcept;

// Enqueues the layer; capturable, no synchronization, deterministic; a token's y does not depend on the
// others, unless their number makes other kernels take the products.
cudaError_t launchDynamicMoe(DynamicMoeParams const& params, cudaStream_t stream) noexcept;

}  // namespace r1trt::kernels
