// The layer: checks, workspace, and the order of the kernels.
#include "dynamic_moe.h"

#include "../common/platform.cuh"
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
  r.offset = memory.take<int32_t>(layer.groups() + 1);
  r.tile_offset = memory.take<int32_t>(layer.groups() + 1);
  r.tile_expert = memory.take<int32_t>(layer.most_tiles);
  r.row = memory.take<int32_t>(layer.rows);
  return r;
}

Workspace takeWorkspace(DynamicMoeParams const& p, Layer const& layer) {
  Allocator memory(p.workspace);
  size_t const element = layer.quantized ? 1 : 2;
  bool const x_scaled = layer.quantized && p.x_scale == nullptr;
  bool const mid_scaled = layer.quantized && p.mid_scale == nullptr;
  int64_t const rows = layer.allRows();
  Workspace w{};
  w.routing = takeRouting(memory, p, layer);
  w.permuted = memory.takeRows(rows, p.hidden, element, x_scaled);
  if (layer.separate) w.gate_up = memory.take<char>(rows * 2 * p.width * 2);
  w.mid = memory.takeRows(rows, p.width, element, mid_scaled);
  w.out = memory.take<char>(rows * p.hidden * 2);
  if (layer.sharedAlone()) {
    if (layer.quantized) w.shared_in = memory.takeRows(layer.tokens, p.hidden, 1, x_scaled);
    if (layer.shared_separate) w.shared_gate_up = memory.take<char>(layer.tokens * 2 * p.shared_width * 2);
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
  int32_t const rows_of_token = p.top_k + (p.shared_width > 0 ? 1 : 0);
  return static_cast<int64_t>(p.batch) * p.seq * rows_of_token <= INT32_MAX;
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

// The product of gate and up, or down's; SwiGLU between them is in the epilogue of the first or a kernel.
cudaError_t runProduct(Layer const& layer, GroupedGemm g, void* gate_up, bool shared, cudaStream_t stream) {
  bool const separate = g.gated && gate_up != nullptr;
  if (separate) separateHalves(g, gate_up);
  cudaError_t const error = launchGroupedGemm(g, layer.sm, stream);
  return error == cudaSuccess && separate ? launchSwiGlu(layer, shared, stream) : error;
}

cudaError_t runGroups(Layer const& layer, cudaStream_t stream) {
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
    g.groups = layer.groups();
    g.rows = layer.allRows();
    g.a = gated ? w.permuted : w.mid;
    g.parts = p.expert_parts;
    for (int i = 0; i < g.parts; ++i) g.weight[i] = gated ? p.gate_up.part[i] : p.down.part[i];
    if (layer.grouped) g.weight[g.parts] = gated ? p.shared_gate_up : p.shared_down;
    g.out = gated ? w.mid.data : w.out;
    g.out_row_scale = gated ? w.mid.scale : nullptr;
    g.n = gated ? p.width : p.hidden;
    g.k = gated ? p.hidden : p.width;
    if (cudaError_t const error = runProduct(layer, g, w.gate_up, false, stream); error != cudaSuccess) {
      return error;
    }
  }
  return cudaSuccess;
}

// A shared expert that is no group.
cudaError_t runShared(Layer const& layer, cudaStream_t stream) {
  DynamicMoeParams const& p = layer.params;
  Workspace const& w = layer.workspace;
  for (bool const gated : {true, false}) {
    GroupedGemm g = describe(layer, gated);
    g.tile_rows = layer.tokens <= kSmallTile ? kSmallTile : kLargeTile;
    g.most_tiles = ceilDiv<int64_t>(layer.tokens, g.tile_rows);
    g.rows = layer.tokens;
    g.a = !gated ? w.shared_mid : layer.quantized ? w.shared_in : Rows{const_cast<void*>(p.x), nullptr};
    g.weight[0] = gated ? p.shared_gate_up : p.shared_down;
    g.experts = g.groups = g.parts = 1;
    g.out = gated ? w.shared_mid.data : w.shared_out;
    g.out_row_scale = gated ? w.shared_mid.scale : nullptr;
    g.n = gated ? p.shared_width : p.hidden;
    g.k = gated ? p.hidden : p.shared_width;
    if (cudaError_t const error = runProduct(layer, g, w.shared_gate_up, true, stream);
        error != cudaSuccess) {
      return error;
    }
  }
  return cudaSuccess;
}

// Whether SwiGLU of so many rows is a kernel of its own.
bool isSeparate(Layer const& layer, int64_t rows, int32_t groups) {
  DynamicMoeParams const& p = layer.params;
  if (p.swiglu != SwiGlu::kAuto) return p.swiglu == SwiGlu::kSeparate;
  return hopperBuilt() && hopperSuits(p, layer.sm, rows, groups, layer.quantized);
}

// Of the worst routing: every expert's last tile, and the shared one's, are partial.
int64_t mostTiles(Layer const& layer) {
  int64_t const experts = layer.params.experts;
  int64_t const partial = layer.rows < experts ? layer.rows : experts;
  int64_t const shared = layer.grouped ? ceilDiv<int64_t>(layer.tokens, layer.tile_rows) : 0;
  return layer.rows / layer.tile_rows + partial + shared;
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
  bool const as_wide = params.shared_width > 0 && params.shared_width == params.width;
  layer.separate =
      isSeparate(layer, layer.rows + (as_wide ? layer.tokens : 0), params.experts + (as_wide ? 1 : 0));
  // Tiles of few rows would read the shared weights once for every few of many tokens.
  layer.grouped = as_wide && (layer.separate || !small || layer.tokens <= kLargeTile);
  layer.shared_separate = layer.sharedAlone() && isSeparate(layer, layer.tokens, 1);
  layer.most_tiles = mostTiles(layer);
  layer.workspace = takeWorkspace(params, layer);
  return layer;
}

cudaError_t launchGroupedGemm(GroupedGemm const& gemm, int sm, cudaStream_t stream) {
  if (hopperBuilt() && hopperTakes(gemm, sm)) return launchGemmHopper(gemm, stream);
  if (gemm.weight_type != DataType::kFloat8E4M3) return launchGemm16Bit(gemm, stream);
  return gemm.quantized ? launchGemmFp8(gemm, stream) : launchGemmWidened(gemm, stream);
}

}  // namespace moe

size_t dynamicMoeWorkspaceSize(DynamicMoeParams const& params) noexcept {
  // Fewer rows may take other tiles, and the architecture changes the element type and what is a group: the
  // largest of all.
  DynamicMoeParams p = params;
  p.workspace = nullptr;
  p.x_scale = p.mid_scale = nullptr;
  size_t size = 0;
  for (int const sm : {80, moe::kFirstFp8Architecture}) {
    moe::Layer layer = moe::layerFromParams(p, sm);
    layer.separate = p.swiglu == SwiGlu::kSeparate || (p.swiglu == SwiGlu::kAuto && moe::hopperBuilt());
    layer.shared_separate = layer.separate;
    layer.tile_rows = moe::kSmallTile;
    for (bool const grouped : {false, p.shared_width == p.width}) {
      layer.grouped = grouped;
      layer.most_tiles = moe::mostTiles(layer);
      size_t const needed = moe::takeWorkspace(p, layer).size;
      size = needed > size ? needed : size;
    }
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
  if (error == cudaSuccess) error = moe::runGroups(layer, stream);
  if (error == cudaSuccess && layer.sharedAlone()) error = moe::runShared(layer, stream);
  return error == cudaSuccess ? moe::launchCombine(layer, stream) : error;
}

}  // namespace r1trt::kernels
