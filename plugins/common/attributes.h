// A node's attributes: parsed from plugin fields, checked, and written back as fields.
#pragma once

#include <string>
#include <vector>

#include "signature.h"
#include "tensorrt.h"

namespace r1trt::plugins {

constexpr int64_t kWorkspaceUnit = 256;  // so that 32 bits are enough
constexpr int32_t kUnknownWorkspace = -1;

// The value of every attribute of a signature, and `input_mask`. Copies keep their own storage.
class Attributes {
 public:
  // Throws PluginError that names the field: one that is unknown, double, of another type, no single finite
  // number or out of range. `phase` kRUNTIME also takes what the library adds on its own: the layer's name,
  // num_sms, workspace_units.
  Attributes(Signature const& signature, nvinfer1::PluginFieldCollection const* fields,
             nvinfer1::TensorRTPhase phase);

  int32_t integer(char const* name) const { return static_cast<int32_t>(valueOf(name)); }
  float real(char const* name) const { return static_cast<float>(valueOf(name)); }
  bool flag(char const* name) const { return valueOf(name) != 0.0; }

  int32_t inputMask() const { return inputMask_; }

  // The layer's name that was serialized; empty in the build phase.
  std::string const& layerName() const { return layerName_; }

  // Multiprocessors of the GPU that the engine was built on; 0 in the build phase.
  int32_t numSms() const { return numSms_; }

  // Workspace that the engine gives the layer, in kWorkspaceUnit bytes; kUnknownWorkspace in the build phase.
  int32_t workspaceUnits() const { return workspaceUnits_; }

  Signature const& signature() const { return signature_; }

  // "name=value" of each, in the signature's order.
  std::string text() const;

 private:
  double valueOf(char const* name) const;
  void take(nvinfer1::PluginField const& field);
  bool restore(nvinfer1::PluginField const& field);

  Signature const& signature_;
  std::vector<double> values_;
  std::vector<bool> seen_;
  int32_t inputMask_ = 0;
  bool maskSeen_ = false;
  std::string layerName_;
  int32_t numSms_ = 0;
  int32_t workspaceUnits_ = kUnknownWorkspace;
};

// What the library adds to the attributes for the runtime.
struct AddedFields {
  std::string layerName;
  int32_t numSms;
  int32_t workspaceUnits;
};

// Attributes as the fields that make a plugin again; a view that is valid as long as it lives and is not
// copied.
class SerializedFields {
 public:
  SerializedFields() = default;
  SerializedFields(SerializedFields const&) = delete;
  SerializedFields& operator=(SerializedFields const&) = delete;

  nvinfer1::PluginFieldCollection const* assign(Attributes const& attributes, AddedFields added);

 private:
  std::vector<int32_t> integers_;
  std::vector<float> reals_;
  AddedFields added_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

// The fields that a parser should look for: every attribute, then `input_mask`; names and types only.
std::vector<nvinfer1::PluginField> fieldNames(Signature const& signature);

}  // namespace r1trt::plugins
