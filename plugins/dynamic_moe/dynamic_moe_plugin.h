// R1DynamicMoE as a TensorRT plugin; the operator is described in docs/plugins.md.
#pragma once

#include <string>
#include <vector>

#include "../common/operator_plugin.h"
#include "../kernels/dynamic_moe/dynamic_moe.h"

namespace r1trt::plugins {

// FP8 weights come with scales as inputs: a Q/DQ pair in front of a plugin would be computed before it.
class DynamicMoePlugin final : public OperatorPlugin {
 public:
  enum Input : int32_t {
    kX,
    kSeqLen,
    kWRouter,
    kRouterBias,
    kWGateUp,
    kWDown,
    kSharedGateUp,
    kSharedDown,
    kXScale,
    kGateUpScale,
    kMidScale,
    kDownScale,
    kFirstOfParts  // behind: gate_up, down and their scales of part 1, then those of part 2, and so on
  };

  // One input of a part; part 0 has the operator's own.
  static constexpr int32_t inputOfPart(Input input, int32_t part) {
    if (part == 0) return input;
    int32_t const offset = input == kWGateUp ? 0 : input == kWDown ? 1 : input == kGateUpScale ? 2 : 3;
    return kFirstOfParts + 4 * (part - 1) + offset;
  }

  static Signature const& operatorSignature();

  DynamicMoePlugin(std::string layer, Attributes attributes);

 protected:
  std::string typeFault(int32_t index, Tensors const& tensors) const override;
  nvinfer1::DataType outputType(int32_t output, Tensors const& tensors) const override;
  std::vector<OutputDim> outputShape(int32_t output, Tensors const& tensors) const override;
  void checkTypes(Tensors const& tensors) const override;
  void checkShapes(Tensors const& tensors) const override;
  size_t workspaceSize(Tensors const& tensors) const override;
  void setShapes(Tensors const& tensors) override;
  cudaError_t launch(Pointers const& pointers, void* workspace, size_t workspaceSize,
                     cudaStream_t stream) const override;
  OperatorPlugin* copy() const override { return new DynamicMoePlugin(*this); }

 private:
  // Sizes and attributes of a launch, without pointers.
  struct LaunchSetup {
    kernels::DynamicMoeParams params;
    int64_t gateUpScales = 0;  // scales of the routed experts; the shared expert's stand behind them
    int64_t downScales = 0;
  };

  void requireRouting() const;
  int32_t parts() const { return attributes().integer("expert_parts"); }
  void checkParts(Tensors const& tensors) const;
  void matchStacks(ShapeMatcher& shapes) const;
  // Throws PluginError if a size breaks the operator's contract.
  void matchShapes(ShapeMatcher& shapes) const;
  LaunchSetup setupFromTensors(Tensors const& tensors) const;
  void setScales(Tensors const& tensors, LaunchSetup& setup) const;

  LaunchSetup setup_;
};

}  // namespace r1trt::plugins
