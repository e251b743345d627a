// Creator of one operator's plugins.
#pragma once

#include <string>
#include <vector>

#include "attributes.h"
#include "error.h"
#include "tensorrt.h"

namespace r1trt::plugins {

// `Plugin` is constructed from a layer's name and its attributes, and has a static signature().
template <typename Plugin>
class OperatorCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  OperatorCreator() : names_(fieldNames(Plugin::operatorSignature())) {
    collection_.nbFields = static_cast<int32_t>(names_.size());
    collection_.fields = names_.data();
  }

  nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const* name,
                                    nvinfer1::PluginFieldCollection const* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    std::string const layer = name == nullptr ? "" : name;
    std::string const where = std::string(getPluginName()) + " layer '" + layer + "'";
    return guarded<nvinfer1::IPluginV3*>(where, "createPlugin", nullptr, [&] {
      auto* plugin = new Plugin(layer, Attributes(Plugin::operatorSignature(), fields, phase));
      log(Severity::kVerbose, where + ": createPlugin: " + plugin->getMetadataString());
      return plugin;
    });
  }

  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &collection_; }
  nvinfer1::AsciiChar const* getPluginName() const noexcept override {
    return Plugin::operatorSignature().name;
  }
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return kVersion; }
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  std::vector<nvinfer1::PluginField> names_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace r1trt::plugins
