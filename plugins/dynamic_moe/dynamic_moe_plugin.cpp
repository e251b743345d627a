#include "dynamic_moe_plugin.h"

#include <iterator>
#include <limits>
#include <utility>

#include "../common/data_types.h"
#include "../common/error.h"
#include "scale_layout.h"

namespace r1trt::plugins {

using nvinfer1::DataType;

Signature const& DynamicMoePlugin::operatorSignature() {
  constexpr double kHuge = std::numeric_limits<float>::max();
  static Signature const signature{
      "R1DynamicMoE",
      {{"x", false},          {"seq_len", false},      {"w_router", false},       {"router_bias", true},
       {"w_gate_up", false},  {"w_down", false},       {"shared_gate_up", true},  {"shared_down", true},
       {"x_scale", true},     {"gate_up_scale", true}, {"mid_scale", true},       {"down_scale", true},
       {"w_gate_up.1", true}, {"w_down.1", true},      {"gate_up_scale.1", true}, {"down_scale.1", true},
       {"w_gate_up.2", true}, {"w_down.2", true},      {"gate_up_scale.2", true}, {"down_scale.2", true},
       {"w_gate_up.3", true}, {"w_down.3", true},      {"gate_up_scale.3", true}, {"down_scale.3", true},
       {"w_gate_up.4", true}, {"w_down.4", true},      {"gate_up_scale.4", true}, {"down_scale.4", true}},
      {"y"},
      {
          {"scoring", AttributeType::kInt, 0, 0, 1},
          {"topk_method", AttributeType::kInt, 0, 0, 2},
          {"top_k", AttributeType::kInt, 2, 1, kernels::kMaxTopK},
          {"top_k_min", AttributeType::kInt, 1, 1, kernels::kMaxTopK},
          {"adaptive_threshold", AttributeType::kFloat, 1.0, 0.0, kHuge},
          {"norm_topk_prob", AttributeType::kInt, 1, 0, 1},
          {"routed_scaling_factor", AttributeType::kFloat, 1.0, 0.0, kHuge},
          {"n_group", AttributeType::kInt, 1, 1, kernels::kMaxGroups},
          {"topk_group", AttributeType::kInt, 1, 1, kernels::kMaxGroups},
          {"expert_parts", AttributeType::kInt, 1, 1, kernels::kMaxExpertParts},
          {"weight_only", AttributeType::kInt, 0, 0, 1},
      },
  };
  return signature;
}

DynamicMoePlugin::DynamicMoePlugin(std::string layer, Attributes attributes)
    : OperatorPlugin(std::move(layer), std::move(attributes)) {
  requireRouting();
}

void DynamicMoePlugin::requireRouting() const {
  auto const requireAtMost = [this](char const* name, char const* bound) {
    int32_t const value = attributes().integer(name), limit = attributes().integer(bound);
    if (value > limit) {
      throw PluginError(std::string("attribute '") + name + "' is " + std::to_string(value) + "; at most " +
                        bound + " expected, which is " + std::to_string(limit));
    }
  };
  requireAtMost("top_k_min", "top_k");
  requireAtMost("topk_group", "n_group");
  // Mask 0 says nothing yet about trailing inputs.
  if (inputs().mask() != 0 && inputs().has(kSharedGateUp) != inputs().has(kSharedDown)) {
    throw PluginError("one of 'shared_gate_up' and 'shared_down' is there without the other");
  }
}

std::string DynamicMoePlugin::typeFault(int32_t index, Tensors const& tensors) const {
  DataType const activation = tensors[kX].type;
  switch (index) {
    case kX:
      return activation == DataType::kHALF || activation == DataType::kBF16 ? "" : "HALF or BF16";
    case kSeqLen:
      return unlessType(tensors[kSeqLen], DataType::kINT64);
    case kWGateUp:
      return tensors[kWGateUp].type == DataType::kFP8 || tensors[kWGateUp].type == activation
                 ? ""
                 : std::string("FP8 or ") + typeName(activation);
    case kWDown:
    case kSharedGateUp:
    case kSharedDown:
      return unlessType(tensors[index], tensors[kWGateUp].type);
    default:
      bool const stack = index >= kFirstOfParts && (index - kFirstOfParts) % 4 < 2;
      return unlessType(tensors[index], stack ? tensors[kWGateUp].type : DataType::kFLOAT);
  }
}

void DynamicMoePlugin::checkTypes(Tensors const& tensors) const {
  if (tensors[kSharedGateUp].present != tensors[kSharedDown].present) {
    throw PluginError("one of 'shared_gate_up' and 'shared_down' is there without the other");
  }
  checkParts(tensors);
  bool const fp8 = tensors[kWGateUp].type == DataType::kFP8;
  if (!fp8 && (tensors[kXScale].present || tensors[kMidScale].present)) {
    throw PluginError("'x_scale' or 'mid_scale' is there; they belong to FP8 weights");
  }
}

void DynamicMoePlugin::checkParts(Tensors const& tensors) const {
  bool const fp8 = tensors[kWGateUp].type == DataType::kFP8;
  auto const require = [&](int32_t index, bool expected, char const* why) {
    if (tensors[index].present == expected) return;
    throw PluginError(std::string("input '") + signature().inputs[index].name + "' is " +
                      (expected ? "absent; " : "there; ") + why);
  };
  for (int32_t part = 0; part < kernels::kMaxExpertParts; ++part) {
    bool const used = part < parts();
    for (Input const stack : {kWGateUp, kWDown})
      require(inputOfPart(stack, part), used, "'expert_parts' says which parts there are");
    for (Input const scale : {kGateUpScale, kDownScale}) {
      require(inputOfPart(scale, part), used && fp8,
              fp8 && used ? "FP8 weights need it" : "it belongs to FP8 weights of a part that is there");
    }
  }
}

DataType DynamicMoePlugin::outputType(int32_t, Tensors const& tensors) const {
  return tensors[kX].type;
}

std::vector<OperatorPlugin::OutputDim> DynamicMoePlugin::outputShape(int32_t, Tensors const&) const {
  return {{kX, 0}, {kX, 1}, {kX, 2}};
}

void DynamicMoePlugin::matchShapes(ShapeMatcher& shapes) const {
  shapes.match(kX, {"B", "S", "D"});
  shapes.match(kSeqLen, {"B"});
  shapes.match(kWRouter, {"E", "D"});
  shapes.match(kRouterBias, {"E"});
  matchStacks(shapes);
  shapes.match(kSharedGateUp, {"2Fs", "D"});
  shapes.match(kSharedDown, {"D", "Fs"});
  int32_t const topK = attributes().integer("top_k"), groups = attributes().integer("n_group");
  int64_t const experts = shapes.value("E"), width = shapes.value("F"), sharedWidth = shapes.value("Fs");
  shapes.require("E", experts >= topK, "at least top_k expected, which is " + std::to_string(topK));
  shapes.require("E", experts <= kernels::kMaxExperts,
                 "at most " + std::to_string(kernels::kMaxExperts) + " expected");
  shapes.require("E", experts % groups == 0,
                 "a multiple of n_group expected, which is " + std::to_string(groups));
  shapes.require("2F", width < 0 || shapes.value("2F") == 2 * width,
                 "twice F expected, which is " + std::to_string(width));
  shapes.require("2Fs", sharedWidth < 0 || shapes.value("2Fs") == 2 * sharedWidth,
                 "twice Fs expected, which is " + std::to_string(sharedWidth));
  for (char const* symbol : {"D", "F", "Fs"}) {
    shapes.require(symbol, shapes.value(symbol) > 0 && shapes.value(symbol) % 16 == 0,
                   "a multiple of 16 expected");
  }
}

void DynamicMoePlugin::matchStacks(ShapeMatcher& shapes) const {
  static constexpr char const* kCounts[] = {"E of part 0", "E of part 1", "E of part 2", "E of part 3",
                                            "E of part 4"};
  static_assert(std::size(kCounts) == kernels::kMaxExpertParts);
  for (int32_t part = 0; part < parts(); ++part) {
    char const* const count = parts() == 1 ? "E" : kCounts[part];
    shapes.match(inputOfPart(kWGateUp, part), {count, "2F", "D"});
    shapes.match(inputOfPart(kWDown, part), {count, "D", "F"});
    int64_t const experts = shapes.value("E");
    if (experts < 0) continue;
    int64_t const expected = experts / parts() + (part < experts % parts() ? 1 : 0);
    shapes.require(count, shapes.value(count) == expected && expected > 0,
                   std::to_string(expected) + " expected: " + std::to_string(experts) + " experts in " +
                       std::to_string(parts()) + " equal parts, the first ones one larger");
  }
}

DynamicMoePlugin::LaunchSetup DynamicMoePlugin::setupFromTensors(Tensors const& tensors) const {
  ShapeMatcher shapes(signature(), tensors);
  matchShapes(shapes);
  LaunchSetup setup;
  kernels::DynamicMoeParams& params = setup.params;
  params.data_type = kernelType(tensors[kX].type);
  params.weight_type = kernelType(tensors[kWGateUp].type);
  params.batch = shapes.size("B");
  params.seq = shapes.size("S");
  params.hidden = shapes.size("D");
  params.experts = shapes.size("E");
  params.expert_parts = parts();
  params.width = shapes.size("F");
  params.shared_width = shapes.size("Fs");
  params.scoring = static_cast<kernels::Scoring>(attributes().integer("scoring"));
  params.topk_method = static_cast<kernels::TopkMethod>(attributes().integer("topk_method"));
  params.top_k = attributes().integer("top_k");
  params.top_k_min = attributes().integer("top_k_min");
  params.adaptive_threshold = attributes().real("adaptive_threshold");
  params.norm_topk_prob = attributes().flag("norm_topk_prob");
  params.routed_scaling_factor = attributes().real("routed_scaling_factor");
  params.fp8_math =
      attributes().flag("weight_only") ? kernels::Fp8Math::kWeightOnly : kernels::Fp8Math::kAuto;
  params.n_group = attributes().integer("n_group");
  params.topk_group = attributes().integer("topk_group");
  if (tensors[kGateUpScale].present && tensors[kDownScale].present) setScales(tensors, setup);
  return setup;
}

void DynamicMoePlugin::setScales(Tensors const& tensors, LaunchSetup& setup) const {
  requireOneElement("x_scale", tensors[kXScale]);
  requireOneElement("mid_scale", tensors[kMidScale]);
  for (int32_t part = 0; part < parts(); ++part) {
    auto const scalesOf = [&](Input weight, Input scale, Input shared) {
      int32_t const index = inputOfPart(scale, part);
      // The shared expert's stand behind those of part 0.
      return scalesFromTensor(signature().inputs[index].name, tensors[index],
                              tensors[inputOfPart(weight, part)], part == 0 ? tensors[shared] : Tensor{});
    };
    WeightScales const gateUp = scalesOf(kWGateUp, kGateUpScale, kSharedGateUp);
    WeightScales const down = scalesOf(kWDown, kDownScale, kSharedDown);
    if (gateUp.layout != down.layout || (part > 0 && gateUp.layout != setup.params.scale_layout))
      throw PluginError("scales of 'gate_up' and 'down', or of the parts, have different layouts");
    if (part > 0) continue;
    setup.params.scale_layout = gateUp.layout;
    setup.gateUpScales = gateUp.routedCount;
    setup.downScales = down.routedCount;
  }
}

void DynamicMoePlugin::checkShapes(Tensors const& tensors) const {
  setupFromTensors(tensors);
}

size_t DynamicMoePlugin::workspaceSize(Tensors const& tensors) const {
  return kernels::dynamicMoeWorkspaceSize(setupFromTensors(tensors).params);
}

void DynamicMoePlugin::setShapes(Tensors const& tensors) {
  setup_ = setupFromTensors(tensors);
}

cudaError_t DynamicMoePlugin::launch(Pointers const& pointers, void* workspace, size_t workspaceSize,
                                     cudaStream_t stream) const {
  auto const* gateUpScale = pointers.input<float>(kGateUpScale);
  auto const* downScale = pointers.input<float>(kDownScale);
  auto const behind = [](float const* scales, int64_t count) {
    return scales == nullptr ? nullptr : scales + count;
  };
  kernels::DynamicMoeParams params = setup_.params;
  params.x = pointers.input(kX);
  params.seq_len = pointers.input<int64_t>(kSeqLen);
  params.w_router = pointers.input<float>(kWRouter);
  params.router_bias = pointers.input<float>(kRouterBias);
  for (int32_t part = 0; part < params.expert_parts; ++part) {
    params.gate_up.part[part] = {pointers.input(inputOfPart(kWGateUp, part)),
                                 pointers.input<float>(inputOfPart(kGateUpScale, part))};
    params.down.part[part] = {pointers.input(inputOfPart(kWDown, part)),
                              pointers.input<float>(inputOfPart(kDownScale, part))};
  }
  if (params.shared_width > 0) {
    params.shared_gate_up = {pointers.input(kSharedGateUp), behind(gateUpScale, setup_.gateUpScales)};
    params.shared_down = {pointers.input(kSharedDown), behind(downScale, setup_.downScales)};
  }
  params.x_scale = pointers.input<float>(kXScale);
  params.mid_scale = pointers.input<float>(kMidScale);
  params.y = pointers.output(0);
  params.workspace = workspace;
  params.workspace_size = workspaceSize;
  return kernels::launchDynamicMoe(params, stream);
}

}  // namespace r1trt::plugins
