// R1DynamicRoPE as a TensorRT plugin; the operator is described in docs/plugins.md.
#pragma once

#include <string>
#include <vector>

#include "../common/operator_plugin.h"
#include "../kernels/dynamic_rope/dynamic_rope.h"

namespace r1trt::plugins {

class DynamicRopePlugin final : public OperatorPlugin {
 public:
  enum Input : int32_t { kQ, kK, kInvFreq, kPastLen };
  enum Output : int32_t { kQOut, kKOut };

  static Signature const& operatorSignature();

  DynamicRopePlugin(std::string layer, Attributes attributes);

 protected:
  std::string typeFault(int32_t index, Tensors const& tensors) const override;
  nvinfer1::DataType outputType(int32_t output, Tensors const& tensors) const override;
  std::vector<OutputDim> outputShape(int32_t output, Tensors const& tensors) const override;
  void checkShapes(Tensors const& tensors) const override;
  size_t workspaceSize(Tensors const& tensors) const override;
  void setShapes(Tensors const& tensors) override;
  cudaError_t launch(Pointers const& pointers, void* workspace, size_t workspaceSize,
                     cudaStream_t stream) const override;
  OperatorPlugin* copy() const override { return new DynamicRopePlugin(*this); }

 private:
  kernels::DynamicRopeParams paramsFromTensors(Tensors const& tensors) const;

  kernels::DynamicRopeParams params_;
};

}  // namespace r1trt::plugins
