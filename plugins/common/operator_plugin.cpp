#include "operator_plugin.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "error.h"

namespace r1trt::plugins {

namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

Dims dimsFromExprs(DimsExprs const& exprs) {
  Dims dims{};
  dims.nbDims = exprs.nbDims;
  for (int32_t i = 0; i < exprs.nbDims; ++i) {
    dims.d[i] = exprs.d[i]->isConstant() ? exprs.d[i]->getConstantValue() : -1;
  }
  return dims;
}

int32_t unitsOf(size_t workspace) {
  size_t const units = (workspace + kWorkspaceUnit - 1) / kWorkspaceUnit;
  constexpr size_t kMost = std::numeric_limits<int32_t>::max();
  if (units > kMost) throw PluginError(std::to_string(workspace) + " bytes of workspace: too many");
  return static_cast<int32_t>(units);
}

}  // namespace

OperatorPlugin::OperatorPlugin(std::string layer, Attributes attributes)
    : layer_(std::move(layer)),
      attributes_(std::move(attributes)),
      map_(attributes_.signature(), attributes_.inputMask()),
      text_(attributes_.text()),
      timingId_(std::string(signature().name) + " " + kVersion + " " + text_),
      workspaceUnits_(attributes_.workspaceUnits()) {
  if (layer_.empty()) layer_ = attributes_.layerName();
}

OperatorPlugin::OperatorPlugin(OperatorPlugin const& other)
    : layer_(other.layer_),
      attributes_(other.attributes_),
      map_(other.map_),
      text_(other.text_),
      timingId_(other.timingId_),
      inputCount_(other.inputCount_),
      workspaceSize_(other.workspaceSize_),
      workspaceUnits_(other.workspaceUnits_) {}

std::string OperatorPlugin::where() const {
  return std::string(signature().name) + " layer '" + (layer_.empty() ? "(unnamed)" : layer_) + "'";
}

int32_t OperatorPlugin::numSms() const {
  if (attributes_.numSms() > 0) return attributes_.numSms();
  int device = 0, count = 0;
  bool const known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess;
  return known ? count : 0;
}

// ---- IPluginV3 and IPluginV3OneCore

nvinfer1::IPluginCapability* OperatorPlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuildV2*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* OperatorPlugin::clone() noexcept {
  return guarded<nvinfer1::IPluginV3*>(where(), "clone", nullptr, [&] { return copy(); });
}

nvinfer1::AsciiChar const* OperatorPlugin::getPluginName() const noexcept {
  return signature().name;
}
nvinfer1::AsciiChar const* OperatorPlugin::getPluginVersion() const noexcept {
  return kVersion;
}
nvinfer1::AsciiChar const* OperatorPlugin::getPluginNamespace() const noexcept {
  return kNamespace;
}

// ---- Checks

void OperatorPlugin::checkAllTypes(Tensors const& tensors) const {
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i].present) continue;
    std::string const expected = typeFault(static_cast<int32_t>(i), tensors);
    if (!expected.empty()) {
      throw PluginError(std::string("input '") + signature().inputs[i].name + "' is " +
                        typeName(tensors[i].type) + "; " + expected + " expected");
    }
  }
  checkTypes(tensors);
}

void OperatorPlugin::checkAll(Tensors const& tensors) const {
  checkAllTypes(tensors);
  checkShapes(tensors);
}

void OperatorPlugin::requireOutputs(int32_t count) const {
  if (count != outputCount()) {
    throw PluginError("layer has " + std::to_string(count) + " outputs; " + std::to_string(outputCount()) +
                      " expected");
  }
}

// What the engine gives, where that is known, is all that the kernels may use.
void OperatorPlugin::requireWorkspace(size_t size) const {
  if (workspaceUnits_ == kUnknownWorkspace || unitsOf(size) <= workspaceUnits_) return;
  throw PluginError("these shapes need " + std::to_string(size) +
                    " bytes of workspace, and the library that built the engine asked for at most " +
                    std::to_string(workspaceUnits_ * kWorkspaceUnit) +
                    "; build the engine again, or run it with a library like that one");
}

Tensors OperatorPlugin::tensorsFromDescs(PluginTensorDesc const* descs, int32_t count) const {
  return tensorsFromLayer(signature(), map_, count, [&](int32_t position) {
    return Tensor{true, descs[position].type, descs[position].dims};
  });
}

Tensors OperatorPlugin::tensorsFromProfile(DynamicPluginTensorDesc const* descs, int32_t count,
                                           Dims DynamicPluginTensorDesc::* bound) const {
  return tensorsFromLayer(signature(), map_, count, [&](int32_t position) {
    return Tensor{true, descs[position].desc.type, descs[position].*bound};
  });
}

// ---- IPluginV3OneBuildV2

int32_t OperatorPlugin::configurePlugin(DynamicPluginTensorDesc const* in, int32_t nbInputs,
                                        DynamicPluginTensorDesc const*, int32_t nbOutputs) noexcept {
  return guarded(where(), "configurePlugin", -1, [&] {
    requireOutputs(nbOutputs);
    for (auto bound :
         {&DynamicPluginTensorDesc::min, &DynamicPluginTensorDesc::opt, &DynamicPluginTensorDesc::max}) {
      checkAll(tensorsFromProfile(in, nbInputs, bound));
    }
    // Once for every profile; the engine's scratch memory has room for each of them.
    Tensors const largest = tensorsFromProfile(in, nbInputs, &DynamicPluginTensorDesc::max);
    workspaceUnits_ = std::max(workspaceUnits_, unitsOf(workspaceSize(largest)));
    return 0;
  });
}

int32_t OperatorPlugin::getOutputDataTypes(DataType* outputTypes, int32_t nbOutputs,
                                           DataType const* inputTypes, int32_t nbInputs) const noexcept {
  return guarded(where(), "getOutputDataTypes", -1, [&] {
    requireOutputs(nbOutputs);
    Tensors const tensors = tensorsFromLayer(signature(), map_, nbInputs, [&](int32_t position) {
      return Tensor{true, inputTypes[position], {}};
    });
    checkAllTypes(tensors);
    for (int32_t i = 0; i < nbOutputs; ++i) outputTypes[i] = outputType(i, tensors);
    return 0;
  });
}

int32_t OperatorPlugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const*,
                                        int32_t nbShapeInputs, DimsExprs* outputs, int32_t nbOutputs,
                                        nvinfer1::IExprBuilder& exprBuilder) noexcept {
  return guarded(where(), "getOutputShapes", -1, [&] {
    if (nbShapeInputs != 0) throw PluginError("the operator has no shape inputs");
    requireOutputs(nbOutputs);
    Tensors const tensors = tensorsFromLayer(signature(), map_, nbInputs, [&](int32_t position) {
      return Tensor{true, DataType::kFLOAT, dimsFromExprs(inputs[position])};
    });
    checkShapes(tensors);
    for (int32_t i = 0; i < nbOutputs; ++i) {
      outputs[i].nbDims = 0;
      for (OutputDim const& dim : outputShape(i, tensors)) {
        outputs[i].d[outputs[i].nbDims++] = dim.constant >= 0
                                                ? exprBuilder.constant(dim.constant)
                                                : inputs[map_.position(dim.input, nbInputs)].d[dim.axis];
      }
    }
    return 0;
  });
}

bool OperatorPlugin::supportsFormatCombination(int32_t pos, DynamicPluginTensorDesc const* inOut,
                                               int32_t nbInputs, int32_t nbOutputs) noexcept {
  return guarded(where(), "supportsFormatCombination", false, [&] {
    requireOutputs(nbOutputs);
    if (pos < 0 || pos >= nbInputs + nbOutputs)
      throw PluginError("no tensor at position " + std::to_string(pos));
    PluginTensorDesc const& desc = inOut[pos].desc;
    if (desc.format != nvinfer1::TensorFormat::kLINEAR) return false;
    // Tensors after `pos` hold whatever the builder tried last.
    Tensors tensors = tensorsFromLayer(signature(), map_, nbInputs, [&](int32_t position) {
      return position <= pos ? Tensor{true, inOut[position].desc.type, {}} : Tensor{};
    });
    if (pos >= nbInputs) return desc.type == outputType(pos - nbInputs, tensors);
    return typeFault(map_.indexAt(pos), tensors).empty();
  });
}

int32_t OperatorPlugin::getNbOutputs() const noexcept {
  return guarded(where(), "getNbOutputs", -1, [&] { return outputCount(); });
}

size_t OperatorPlugin::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t nbInputs,
                                        DynamicPluginTensorDesc const*, int32_t) const noexcept {
  return guarded(where(), "getWorkspaceSize", size_t{0}, [&] {
    Tensors const tensors = tensorsFromProfile(inputs, nbInputs, &DynamicPluginTensorDesc::max);
    checkAll(tensors);
    return workspaceSize(tensors);
  });
}

nvinfer1::AsciiChar const* OperatorPlugin::getTimingCacheID() noexcept {
  return timingId_.c_str();
}
nvinfer1::AsciiChar const* OperatorPlugin::getMetadataString() noexcept {
  return text_.c_str();
}

int32_t OperatorPlugin::getAliasedInput(int32_t outputIndex) noexcept {
  return guarded(where(), "getAliasedInput", -1, [&] {
    int32_t const input = aliasedInput(outputIndex);
    return input < 0 ? -1 : map_.position(input, static_cast<int32_t>(signature().inputs.size()));
  });
}

// ---- IPluginV3OneRuntime

int32_t OperatorPlugin::onShapeChange(PluginTensorDesc const* in, int32_t nbInputs, PluginTensorDesc const*,
                                      int32_t nbOutputs) noexcept {
  inputCount_ = -1;
  return guarded(where(), "onShapeChange", -1, [&] {
    requireOutputs(nbOutputs);
    Tensors const tensors = tensorsFromDescs(in, nbInputs);
    checkAll(tensors);
    workspaceSize_ = workspaceSize(tensors);
    requireWorkspace(workspaceSize_);
    setShapes(tensors);
    inputCount_ = nbInputs;
    return 0;
  });
}

int32_t OperatorPlugin::enqueue(PluginTensorDesc const*, PluginTensorDesc const*, void const* const* inputs,
                                void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  return guarded(where(), "enqueue", -1, [&] {
    if (inputCount_ < 0) throw PluginError("no valid shapes: onShapeChange was not called, or refused them");
    if (workspaceSize_ > 0 && workspace == nullptr) {
      throw PluginError("no workspace; " + std::to_string(workspaceSize_) + " bytes expected");
    }
    // NOTES: known to be enough from onShapeChange on; the kernels check it as well, against what is there.
    bool const known = workspaceUnits_ != kUnknownWorkspace;
    size_t const given = known ? workspaceUnits_ * static_cast<size_t>(kWorkspaceUnit) : workspaceSize_;
    cudaError_t const status = launch(Pointers(map_, inputCount_, inputs, outputs), workspace, given, stream);
    if (status != cudaSuccess) {
      throw PluginError(std::string("kernels were not enqueued: ") + cudaGetErrorName(status) + ", " +
                        cudaGetErrorString(status) + " (" + text_ + ")");
    }
    return 0;
  });
}

nvinfer1::IPluginV3* OperatorPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return guarded<nvinfer1::IPluginV3*>(where(), "attachToContext", nullptr, [&] { return copy(); });
}

nvinfer1::PluginFieldCollection const* OperatorPlugin::getFieldsToSerialize() noexcept {
  return guarded<nvinfer1::PluginFieldCollection const*>(where(), "getFieldsToSerialize", nullptr, [&] {
    return fields_.assign(attributes_, {layer_, numSms(), workspaceUnits_});
  });
}

}  // namespace r1trt::plugins
