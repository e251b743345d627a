// What the three plugins share: everything of IPluginV3 that follows from a signature and a few checks.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <vector>

#include "attributes.h"
#include "inputs.h"
#include "tensorrt.h"
#include "tensors.h"

namespace r1trt::plugins {

// The device pointers of one enqueue, by the operator's inputs and outputs.
class Pointers {
 public:
  Pointers(InputMap const& map, int32_t inputCount, void const* const* inputs, void* const* outputs)
      : map_(map), inputCount_(inputCount), inputs_(inputs), outputs_(outputs) {}

  // Null for an absent input.
  void const* input(int32_t index) const {
    int32_t const position = map_.position(index, inputCount_);
    return position < 0 ? nullptr : inputs_[position];
  }
  template <typename Element>
  Element const* input(int32_t index) const {
    return static_cast<Element const*>(input(index));
  }
  void* output(int32_t index) const { return outputs_[index]; }

 private:
  InputMap const& map_;
  int32_t inputCount_;
  void const* const* inputs_;
  void* const* outputs_;
};

// A plugin of one operator. Subclasses check and launch; they compute nothing.
//
// Lifetime: a copy (clone, attachToContext) has the attributes and, from onShapeChange on, shapes of its own,
// so execution contexts do not disturb each other. What the profiles' largest shapes need is kept with the
// engine: a library that needs more than the one that built it is refused. One object is used by one thread
// at a time, as TensorRT promises.
class OperatorPlugin : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public nvinfer1::IPluginV3OneBuildV2,
                       public nvinfer1::IPluginV3OneRuntime {
 public:
  // Throws PluginError if the attributes contradict each other.
  OperatorPlugin(std::string layer, Attributes attributes);
  OperatorPlugin(OperatorPlugin const& other);
  OperatorPlugin& operator=(OperatorPlugin const&) = delete;

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // IPluginV3OneCore
  nvinfer1::AsciiChar const* getPluginName() const noexcept override;
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

  // IPluginV3OneBuildV2
  int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs,
                          nvinfer1::DynamicPluginTensorDesc const* out, int32_t nbOutputs) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs,
                             nvinfer1::DataType const* inputTypes, int32_t nbInputs) const noexcept override;
  int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
                          nvinfer1::DimsExprs const* shapeInputs, int32_t nbShapeInputs,
                          nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
                          nvinfer1::IExprBuilder& exprBuilder) noexcept override;
  bool supportsFormatCombination(int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut,
                                 int32_t nbInputs, int32_t nbOutputs) noexcept override;
  int32_t getNbOutputs() const noexcept override;
  size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t nbInputs,
                          nvinfer1::DynamicPluginTensorDesc const* outputs,
                          int32_t nbOutputs) const noexcept override;
  nvinfer1::AsciiChar const* getTimingCacheID() noexcept override;
  nvinfer1::AsciiChar const* getMetadataString() noexcept override;
  int32_t getAliasedInput(int32_t outputIndex) noexcept override;

  // IPluginV3OneRuntime
  int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs,
                        nvinfer1::PluginTensorDesc const* out, int32_t nbOutputs) noexcept override;
  int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
                  void const* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

 protected:
  Attributes const& attributes() const { return attributes_; }
  InputMap const& inputs() const { return map_; }
  Signature const& signature() const { return attributes_.signature(); }

  // Operator and layer, as messages begin.
  std::string where() const;

  // Multiprocessors to count on: those of the GPU that the engine was built on, since the workspace was made
  // for it, and a GPU of the same architecture may have more. 0 if there is no GPU.
  int32_t numSms() const;

  // Which type an input must have, in words, or an empty text if its type fits. Only inputs before `index`
  // and itself may be looked at.
  virtual std::string typeFault(int32_t index, Tensors const& tensors) const = 0;

  virtual int32_t outputCount() const { return static_cast<int32_t>(signature().outputs.size()); }
  virtual nvinfer1::DataType outputType(int32_t output, Tensors const& tensors) const = 0;

  // Dimension `axis` of an output is that of an input, unless value() >= 0 says a constant.
  struct OutputDim {
    int32_t input;
    int32_t axis;
    int64_t constant = -1;
  };
  virtual std::vector<OutputDim> outputShape(int32_t output, Tensors const& tensors) const = 0;

  // The operator's input that an output updates in place; -1 if none.
  virtual int32_t aliasedInput(int32_t) const { return -1; }

  // Throws PluginError if the inputs that are there do not go together, whatever their shapes.
  virtual void checkTypes(Tensors const&) const {}

  // Throws PluginError if shapes, as far as they are known, break the operator's contract; types are not
  // looked at.
  virtual void checkShapes(Tensors const& tensors) const = 0;

  // Bytes of workspace for these shapes, all of which are known and checked.
  virtual size_t workspaceSize(Tensors const& tensors) const = 0;

  // Remembers shapes for the launches that follow; all of them are known and checked.
  virtual void setShapes(Tensors const& tensors) = 0;

  // Enqueues the kernels.
  virtual cudaError_t launch(Pointers const& pointers, void* workspace, size_t workspaceSize,
                             cudaStream_t stream) const = 0;

  virtual OperatorPlugin* copy() const = 0;

 private:
  void checkAllTypes(Tensors const& tensors) const;
  void checkAll(Tensors const& tensors) const;
  Tensors tensorsFromDescs(nvinfer1::PluginTensorDesc const* descs, int32_t count) const;
  Tensors tensorsFromProfile(nvinfer1::DynamicPluginTensorDesc const* descs, int32_t count,
                             nvinfer1::Dims nvinfer1::DynamicPluginTensorDesc::* bound) const;
  void requireOutputs(int32_t count) const;
  void requireWorkspace(size_t size) const;

  std::string layer_;
  Attributes attributes_;
  InputMap map_;
  std::string text_;
  std::string timingId_;
  SerializedFields fields_;
  int32_t inputCount_ = -1;   // of the layer, since the last onShapeChange
  size_t workspaceSize_ = 0;  // that these shapes need
  int32_t workspaceUnits_;    // that the engine gives: the largest of the profiles', when it was built
};

}  // namespace r1trt::plugins
