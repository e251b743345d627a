// The layer: checks, workspace, and the order of the kernels.
#include "dynamic_moe.h"

#include "../common/platform.cuh"
#include "cutlass_gemm.h"
#include "hopper_gemm.h"
#include "stages.cuh"

namespace r1trt::kernels {
namespace moe {
namespace {

constexpr int kFirstFp8Architecture = 89;

// Hands out pieces of the workspace; with a null base it only measures.
class Allocator {
 public:
  explicit Allocator(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    size_t const at = size_;
    size_ += alignUp(sizeof(T) * static_cast<size_t>(count));
    return base_ != nullptr ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }

  Rows takeRows(int64_t rows, int64_t columns, size_t element, bool scaled) {
    Rows result{take<char>(rows * columns * static_cast<int64_t>(element)), nullptr};
    if (scaled) result.scale = take<float>(rows * scaleBlocks(columns));
    return result;
  }

  size_t size() const { return size_; }

 private:
  char* base_;
  size_t size_ = 0;
};

Routing takeRouting(Allocator& memory, DynamicMoeParams const& p, Layer const& layer) {
  int64_t const sliced = (layer.tokens < kSlicedTokens ? layer.tokens : kSlicedTokens) * kLogitSlices;
  int64_t const blocks =
      layer.tokens > 0 ? ceilDiv<int64_t>(layer.tokens, tokensPerRouterBlock(layer.tokens)) : 0;
  int64_t const most_blocks = blocks > kMostRouterBlocks ? blocks : kMostRouterBlocks;
  Routing r{};
  r.logits = memory.take<float>((layer.tokens > sliced ? layer.tokens : sliced) * p.experts);
  r.expert = memory.take<int32_t>(layer.rows);
  r.weight = memory.take<float>(layer.rows);
  r.count = memory.take<uint16_t>(most_blocks * countPitch(p.experts));
  r.offset = memory.take<int32_t>(p.experts + 1);
  r.tile_offset = memory.take<int32_t>(p.experts + 1);
  r.tile_expert = memory.take<int32_t>(layer.most_tiles);
  r.row = memory.take<int32_t>(layer.rows);
  return r;
}

Workspace takeWorkspace(DynamicMoeParams const& p, Layer const& layer) {
  Allocator memory(p.workspace);
  size_t const element = layer.quantized ? 1 : 2;
  bool const x_scaled = layer.quantized && p.x_scale == nullptr;
  bool const mid_scaled = layer.quantized && p.mid_scale == nullptr;
  Workspace w{};
  w.routing = takeRouting(memory, p, layer);
  w.permuted = memory.takeRows(layer.rows, p.hidden, element, x_scaled);
  if (layer.separate) {
    w.gate_up = memory.take<char>(layer.rows * 2 * p.width * 2);
    w.cutlass = memory.take<char>(static_cast<int64_t>(cutlassWorkspaceSize()));
  }
  w.mid = memory.takeRows(layer.rows, p.width, element, mid_scaled);
  w.out = memory.take<char>(layer.rows * p.hidden * 2);
  if (p.shared_width > 0) {
    if (layer.quantized) w.shared_in = memory.takeRows(layer.tokens, p.hidden, 1, x_scaled);
    w.shared_mid = memory.takeRows(layer.tokens, p.shared_width, element, mid_scaled);
    w.shared_out = memory.take<char>(layer.tokens * p.hidden * 2);
  }
  w.size = memory.size();
  return w;
}

bool checkSizes(DynamicMoeParams const& p) {
  auto multiple = [](int32_t value, int32_t of) { return value > 0 && value % of == 0; };
  bool const sizes = p.batch >= 0 && p.seq >= 0 && multiple(p.hidden, 16) && multiple(p.width, 16) &&
                     p.shared_width >= 0 && p.shared_width % 16 == 0;
  bool const routing = p.experts > 0 && p.experts <= kMaxExperts && p.top_k > 0 && p.top_k <= kMaxTopK &&
                       p.top_k <= p.experts && p.top_k_min > 0 && p.top_k_min <= p.top_k &&
                       p.routed_scaling_factor >= 0.0F && p.adaptive_threshold >= 0.0F &&
                       p.expert_parts > 0 && p.expert_parts <= kMaxExpertParts && p.expert_parts <= p.experts;
  bool const groups = p.n_group > 0 && p.n_group <= kMaxGroups && p.experts % p.n_group == 0 &&
                      p.topk_group > 0 && p.topk_group <= p.n_group;
  if (!sizes || !routing || !groups) return false;
  bool const limited = p.topk_method != TopkMethod::kGreedy;
  if (limited && p.top_k > p.experts / p.n_group * p.topk_group)
    return false;  // fewer experts than candidates
  bool const blocks = p.weight_type == DataType::kFloat8E4M3 && p.scale_layout == ScaleLayout::kBlock128;
  if (blocks && (p.width % kScaleBlock != 0 || p.shared_width % kScaleBlock != 0)) return false;
  return static_cast<int64_t>(p.batch) * p.seq * p.top_k <= INT32_MAX;
}

bool checkWeight(DynamicMoeParams const& p, MoeWeight const& weight) {
  bool const scaled = p.weight_type != DataType::kFloat8E4M3 || weight.scale != nullptr;
  return weight.data != nullptr && aligned16(weight.data) && scaled;
}

bool checkWeights(DynamicMoeParams const& p, ExpertWeights const& weights) {
  bool good = true;
  for (int i = 0; i < p.expert_parts; ++i) good = good && checkWeight(p, weights.part[i]);
  return good;
}

bool checkPointers(DynamicMoeParams const& p) {
  bool good = p.x != nullptr && p.y != nullptr && p.w_router != nullptr && p.workspace != nullptr &&
              aligned16(p.x) && aligned16(p.y) && aligned16(p.w_router) && aligned16(p.workspace);
  good = good && checkWeights(p, p.gate_up) && checkWeights(p, p.down);
  if (p.shared_width > 0) good = good && checkWeight(p, p.shared_gate_up) && checkWeight(p, p.shared_down);
  return good;
}

cudaError_t check(DynamicMoeParams const& p, int sm) {
  bool const type = p.data_type == DataType::kBFloat16 || p.data_type == DataType::kFloat16;
  bool const fp8 = p.weight_type == DataType::kFloat8E4M3;
  if (!type || (!fp8 && p.weight_type != p.data_type)) return cudaErrorNotSupported;
  if (fp8 && p.fp8_math == Fp8Math::kFp8 && sm < kFirstFp8Architecture) return cudaErrorNotSupported;
  return checkSizes(p) ? cudaSuccess : cudaErrorInvalidValue;
}

GroupedGemm describe(Layer const& layer, bool gated) {
  DynamicMoeParams const& p = layer.params;
  GroupedGemm g{};
  g.data_type = p.data_type;
  g.weight_type = p.weight_type;
  g.quantized = layer.quantized;
  g.gated = gated;
  g.scale_layout = p.scale_layout;
  g.a_scale = gated ? p.x_scale : p.mid_scale;
  g.out_quantized = gated && layer.quantized;
  g.out_scale = p.mid_scale;
  return g;
}

// The product of gate and up as plain columns, without SwiGLU.
void separateHalves(GroupedGemm& g, void* out) {
  g.gated = g.out_quantized = false;
  g.n *= 2;
  g.out = out;
  g.out_row_scale = nullptr;
  g.out_scale = nullptr;
}

cudaError_t runRouted(Layer const& layer, int sm, cudaStream_t stream) {
  DynamicMoeParams const& p = layer.params;
  Workspace const& w = layer.workspace;
  for (bool const gated : {true, false}) {
    GroupedGemm g = describe(layer, gated);
    g.tile_rows = layer.tile_rows;
    g.most_tiles = layer.most_tiles;
    g.offset = w.routing.offset;
    g.tile_offset = w.routing.tile_offset;
    g.tile_expert = w.routing.tile_expert;
    g.experts = p.experts;
    g.rows = layer.rows;
    g.a = gated ? w.permuted : w.mid;
    g.weight = gated ? p.gate_up : p.down;
    g.parts = p.expert_parts;
    g.out = gated ? w.mid.data : w.out;
    g.out_row_scale = gated ? w.mid.scale : nullptr;
    g.n = gated ? p.width : p.hidden;
    g.k = gated ? p.hidden : p.width;
    g.cutlass = w.cutlass;
    if (gated && layer.separate) separateHalves(g, w.gate_up);
    cudaError_t error = launchGroupedGemm(g, sm, stream);
    if (error == cudaSuccess && gated && layer.separate) error = launchSwiGlu(layer, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t runShared(Layer const& layer, int sm, cudaStream_t stream) {
  DynamicMoeParams const& p = layer.params;
  Workspace const& w = layer.workspace;
  for (bool const gated : {true, false}) {
    GroupedGemm g = describe(layer, gated);
    g.tile_rows = layer.tokens <= kSmallTile ? kSmallTile : kLargeTile;
    g.most_tiles = ceilDiv<int64_t>(layer.tokens, g.tile_rows);
    g.rows = layer.tokens;
    g.a = !gated ? w.shared_mid : layer.quantized ? w.shared_in : Rows{const_cast<void*>(p.x), nullptr};
    g.weight.part[0] = gated ? p.shared_gate_up : p.shared_down;
    g.parts = 1;
    g.out = gated ? w.shared_mid.data : w.shared_out;
    g.out_row_scale = gated ? w.shared_mid.scale : nullptr;
    g.n = gated ? p.shared_width : p.hidden;
    g.k = gated ? p.hidden : p.shared_width;
    if (cudaError_t const error = launchGroupedGemm(g, sm, stream); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace

Layer layerFromParams(DynamicMoeParams const& params, int sm) {
  Layer layer{};
  layer.params = params;
  layer.sm = sm;
  layer.tokens = static_cast<int64_t>(params.batch) * params.seq;
  layer.rows = layer.tokens * params.top_k;
  bool const fp8_math =
      params.fp8_math == Fp8Math::kFp8 || (params.fp8_math == Fp8Math::kAuto && sm >= kFirstFp8Architecture);
  layer.quantized = params.weight_type == DataType::kFloat8E4M3 && fp8_math;
  // Tiles of few rows while most experts would leave a large one nearly empty: weights are then what is read.
  bool const small = layer.rows <= static_cast<int64_t>(kSmallTile) * params.experts;
  layer.tile_rows = small ? kSmallTile : kLargeTile;
  int64_t const partial = layer.rows < params.experts ? layer.rows : params.experts;
  layer.most_tiles = layer.rows / layer.tile_rows + partial;
  bool const separate = (cutlassBuilt() && cutlassSuits(params, sm, layer.rows) && layer.quantized) ||
                        (hopperBuilt() && hopperSuits(params, sm, layer.rows, layer.quantized));
  layer.separate = params.swiglu == SwiGlu::kAuto ? separate : params.swiglu == SwiGlu::kSeparate;
  layer.workspace = takeWorkspace(params, layer);
  return layer;
}

cudaError_t launchGroupedGemm(GroupedGemm const& gemm, int sm, cudaStream_t stream) {
  if (hopperBuilt() && hopperTakes(gemm, sm)) return launchGemmHopper(gemm, stream);
  if (cutlassBuilt() && cutlassTakes(gemm, sm)) return launchGemmCutlass(gemm, stream);
  if (gemm.weight_type != DataType::kFloat8E4M3) return launchGemm16Bit(gemm, stream);
  return gemm.quantized ? launchGemmFp8(gemm, stream) : launchGemmWidened(gemm, stream);
}

}  // namespace moe

size_t dynamicMoeWorkspaceSize(DynamicMoeParams const& params) noexcept {
  // The tile size changes the number of tiles, and the architecture the element type: the larger of all.
  DynamicMoeParams p = params;
  p.workspace = nullptr;
  p.x_scale = p.mid_scale = nullptr;
  size_t size = 0;
  for (int const sm : {80, moe::kFirstFp8Architecture}) {
    moe::Layer layer = moe::layerFromParams(p, sm);
    bool const may_separate = moe::cutlassBuilt() || moe::hopperBuilt();
    layer.separate = p.swiglu == SwiGlu::kSeparate || (p.swiglu == SwiGlu::kAuto && may_separate);
    int64_t const partial = layer.rows < p.experts ? layer.rows : p.experts;
    layer.most_tiles = layer.rows / moe::kSmallTile + partial;
    size_t const needed = moe::takeWorkspace(p, layer).size;
    size = needed > size ? needed : size;
  }
  return size;
}

cudaError_t launchDynamicMoe(DynamicMoeParams const& params, cudaStream_t stream) noexcept {
  DeviceLimits limits;
  if (params.sm == 0) {
    if (cudaError_t const error = deviceLimits(limits); error != cudaSuccess) return error;
  }
  int const sm = params.sm != 0 ? params.sm : limits.sm;
  if (cudaError_t const error = moe::check(params, sm); error != cudaSuccess) return error;
  if (params.batch == 0 || params.seq == 0) return cudaSuccess;
  if (!moe::checkPointers(params)) return cudaErrorInvalidDevicePointer;
  moe::Layer const layer = moe::layerFromParams(params, sm);
  if (params.workspace_size < layer.workspace.size) return cudaErrorMemoryAllocation;

  cudaError_t error = moe::launchRouter(layer, stream);
  if (error == cudaSuccess) error = moe::launchPermute(layer, stream);
  if (error == cudaSuccess) error = moe::runRouted(layer, sm, stream);
  if (error == cudaSuccess && params.shared_width > 0) error = moe::runShared(layer, sm, stream);
  return error == cudaSuccess ? moe::launchCombine(layer, stream) : error;
}

}  // namespace r1trt::kernels
