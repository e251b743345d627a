// R1HLAAttention as a TensorRT plugin; the operator is described in docs/plugins.md.
#pragma once

#include <string>
#include <vector>

#include "../common/operator_plugin.h"
#include "../kernels/hla_attention/hla_attention.h"

namespace r1trt::plugins {

// The caches are updated in place: each output cache is declared an alias of its input. Where a builder gives
// them memory of their own all the same, the input is copied first, and the logger told once.
class HlaAttentionPlugin final : public OperatorPlugin {
 public:
  enum Input : int32_t { kQ, kK, kV, kKeyCache, kValueCache, kLam, kPastLen, kSeqLen };
  enum Output : int32_t { kY, kKeyCacheOut, kValueCacheOut };

  static Signature const& operatorSignature();

  HlaAttentionPlugin(std::string layer, Attributes attributes);

 protected:
  std::string typeFault(int32_t index, Tensors const& tensors) const override;
  int32_t outputCount() const override;
  nvinfer1::DataType outputType(int32_t output, Tensors const& tensors) const override;
  std::vector<OutputDim> outputShape(int32_t output, Tensors const& tensors) const override;
  int32_t aliasedInput(int32_t output) const override;
  void checkShapes(Tensors const& tensors) const override;
  size_t workspaceSize(Tensors const& tensors) const override;
  void setShapes(Tensors const& tensors) override;
  cudaError_t launch(Pointers const& pointers, void* workspace, size_t workspaceSize,
                     cudaStream_t stream) const override;
  OperatorPlugin* copy() const override { return new HlaAttentionPlugin(*this); }

 private:
  void requireForm() const;
  kernels::HlaAttentionParams paramsFromTensors(Tensors const& tensors) const;
  cudaError_t copyUnlessAliased(void* output, void const* input, size_t bytes, cudaStream_t stream) const;

  kernels::HlaAttentionParams params_;
  size_t keyCacheBytes_ = 0;
  size_t valueCacheBytes_ = 0;
};

}  // namespace r1trt::plugins
