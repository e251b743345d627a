#include "dynamic_rope_plugin.h"

#include <limits>
#include <utility>

#include "../common/data_types.h"

namespace r1trt::plugins {

using nvinfer1::DataType;

Signature const& DynamicRopePlugin::operatorSignature() {
  constexpr double kPositive = std::numeric_limits<float>::min();
  constexpr double kHuge = std::numeric_limits<float>::max();
  constexpr double kMaxInt = std::numeric_limits<int32_t>::max();
  static Signature const signature{
      "R1DynamicRoPE",
      {{"q", false}, {"k", false}, {"inv_freq", false}, {"past_len", false}},
      {"q_out", "k_out"},
      {
          {"interleaved", AttributeType::kInt, 0, 0, 1},
          {"attention_factor", AttributeType::kFloat, 1.0, kPositive, kHuge},
          {"temperature_alpha", AttributeType::kFloat, 0.0, 0.0, kHuge},
          {"original_max_position", AttributeType::kInt, 0, 0, kMaxInt},
      },
  };
  return signature;
}

DynamicRopePlugin::DynamicRopePlugin(std::string layer, Attributes attributes)
    : OperatorPlugin(std::move(layer), std::move(attributes)) {}

std::string DynamicRopePlugin::typeFault(int32_t index, Tensors const& tensors) const {
  DataType const activation = tensors[kQ].type;
  bool const floating =
      activation == DataType::kFLOAT || activation == DataType::kHALF || activation == DataType::kBF16;
  switch (index) {
    case kQ:
      return floating ? "" : "FLOAT, HALF or BF16";
    case kK:
      return unlessType(tensors[kK], activation);
    case kInvFreq:
      return unlessType(tensors[kInvFreq], DataType::kFLOAT);
    default:
      return unlessType(tensors[kPastLen], DataType::kINT64);
  }
}

DataType DynamicRopePlugin::outputType(int32_t, Tensors const& tensors) const {
  return tensors[kQ].type;
}

std::vector<OperatorPlugin::OutputDim> DynamicRopePlugin::outputShape(int32_t output, Tensors const&) const {
  int32_t const input = output == kQOut ? kQ : kK;
  return {{input, 0}, {input, 1}, {input, 2}, {input, 3}};
}

kernels::DynamicRopeParams DynamicRopePlugin::paramsFromTensors(Tensors const& tensors) const {
  ShapeMatcher shapes(signature(), tensors);
  shapes.match(kQ, {"B", "S", "H", "d"});
  shapes.match(kK, {"B", "S", "Hkv", "d"});
  shapes.match(kInvFreq, {"r/2"});
  shapes.match(kPastLen, {"B"});
  int64_t const half = shapes.value("r/2"), head = shapes.value("d");
  shapes.require("r/2", half >= 1, "at least 1 expected");
  shapes.require("r/2", head < 0 || 2 * half <= head,
                 "at most half of the head size expected, d is " + std::to_string(head));

  kernels::DynamicRopeParams params;
  params.data_type = kernelType(tensors[kQ].type);
  params.batch = shapes.size("B");
  params.seq = shapes.size("S");
  params.heads = shapes.size("H");
  params.kv_heads = shapes.size("Hkv");
  params.head_dim = shapes.size("d");
  params.rotary_dim = 2 * shapes.size("r/2");
  params.interleaved = attributes().flag("interleaved");
  params.attention_factor = attributes().real("attention_factor");
  params.temperature_alpha = attributes().real("temperature_alpha");
  params.original_max_position = attributes().integer("original_max_position");
  return params;
}

void DynamicRopePlugin::checkShapes(Tensors const& tensors) const {
  paramsFromTensors(tensors);
}

size_t DynamicRopePlugin::workspaceSize(Tensors const&) const {
  return 0;
}

void DynamicRopePlugin::setShapes(Tensors const& tensors) {
  params_ = paramsFromTensors(tensors);
}

cudaError_t DynamicRopePlugin::launch(Pointers const& pointers, void*, size_t, cudaStream_t stream) const {
  kernels::DynamicRopeParams params = params_;
  params.q = pointers.input(kQ);
  params.k = pointers.input(kK);
  params.inv_freq = pointers.input<float>(kInvFreq);
  params.past_len = pointers.input<int64_t>(kPastLen);
  params.q_out = pointers.output(kQOut);
  params.k_out = pointers.output(kKOut);
  return kernels::launchDynamicRope(params, stream);
}

}  // namespace r1trt::plugins
