// The classes that a plugin implements or is handed, virtual function by virtual function.
//
// "slot" is a virtual function's index in the table behind an object's first word. Slots follow the order of
// declaration; a virtual destructor takes two. Everything a plugin *implements* is the same in TensorRT 10.0
// to 11.4. What a plugin *calls* is not: the logger and the registry moved their slots in 11, so they are
// absent here and sit behind adaptors of their own (plugins/common/logger.h, registry.h).
#pragma once

#include "types.h"

namespace nvinfer1 {

// Root of everything that is versioned.
//   slot 0 getAPILanguage   1 getInterfaceInfo   2, 3 destructor
class IVersionedInterface {
 public:
  virtual APILanguage getAPILanguage() const noexcept { return APILanguage::kCPP; }
  virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
  virtual ~IVersionedInterface() noexcept = default;
};

// ---- Shape expressions: handed to getOutputShapes, made by the builder.
//
// IDimensionExpr and IExprBuilder are facades of 16 bytes: a table pointer, and at offset 8 a pointer to the
// object that does the work. Their functions are inline and forward to it, so the slots that matter are the V
// classes'.

class IDimensionExpr;

namespace apiv {

// slots 0, 1 destructor
class VRoot {
 public:
  virtual ~VRoot() noexcept = default;
};

// slot 2 isConstant   3 getConstantValue   4 isSizeTensor
class VDimensionExpr : public VRoot {
 public:
  virtual bool isConstant() const = 0;
  virtual int64_t getConstantValue() const = 0;
  virtual bool isSizeTensor() const = 0;
};

// slot 2 constant   3 operation   4 declareSizeTensor
class VExprBuilder : public VRoot {
 public:
  virtual IDimensionExpr const* constant(int64_t value) = 0;
  virtual IDimensionExpr const* operation(DimensionOperation op, IDimensionExpr const& first,
                                          IDimensionExpr const& second) = 0;
  virtual IDimensionExpr const* declareSizeTensor(int32_t output, IDimensionExpr const& opt,
                                                  IDimensionExpr const& upper) = 0;
};

}  // namespace apiv

// slots 0, 1 destructor
class INoCopy {
 protected:
  INoCopy() = default;
  virtual ~INoCopy() = default;
  INoCopy(INoCopy const&) = delete;
  INoCopy& operator=(INoCopy const&) = delete;
};

// One dimension of an input or output, constant or not.
class IDimensionExpr : public INoCopy {
 public:
  bool isConstant() const noexcept { return mImpl->isConstant(); }
  // The value if constant, else the smallest int64.
  int64_t getConstantValue() const noexcept { return mImpl->getConstantValue(); }
  bool isSizeTensor() const noexcept { return mImpl->isSizeTensor(); }

 protected:
  apiv::VDimensionExpr* mImpl{nullptr};
  ~IDimensionExpr() noexcept override = default;
};

// Makes dimensions out of dimensions; owns what it returns.
class IExprBuilder : public INoCopy {
 public:
  IDimensionExpr const* constant(int64_t value) noexcept { return mImpl->constant(value); }
  IDimensionExpr const* operation(DimensionOperation op, IDimensionExpr const& first,
                                  IDimensionExpr const& second) noexcept {
    return mImpl->operation(op, first, second);
  }
  IDimensionExpr const* declareSizeTensor(int32_t output, IDimensionExpr const& opt,
                                          IDimensionExpr const& upper) {
    return mImpl->declareSizeTensor(output, opt, upper);
  }

 protected:
  apiv::VExprBuilder* mImpl{nullptr};
  ~IExprBuilder() noexcept override = default;
};

struct DimsExprs {
  int32_t nbDims;
  IDimensionExpr const* d[Dims::MAX_DIMS];
};

static_assert(sizeof(DimsExprs) == 72 && offsetof(DimsExprs, d) == 8);
static_assert(sizeof(IDimensionExpr) == 16 && sizeof(IExprBuilder) == 16);

// ---- The plugin.

// An execution context's allocator and error recorder; passed through, never called by these plugins.
class IPluginResourceContext;

namespace v_1_0 {

// Adds no slot. What a plugin can do comes in three such parts.
class IPluginCapability : public IVersionedInterface {};

// Adds no slot.
class IPluginCreatorInterface : public IVersionedInterface {};

// The plugin as TensorRT owns it; it deletes it through the destructor.
//   slot 4 getCapabilityInterface   5 clone
class IPluginV3 : public IVersionedInterface {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN", 1, 0}; }
  // Which of the plugin's parts serves `type`; null if none does. Not owned by the caller.
  virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept = 0;
  // A copy in the same state, owned by the caller; null on failure.
  virtual IPluginV3* clone() noexcept = 0;
};

// Identity.
//   slot 4 getPluginName   5 getPluginVersion   6 getPluginNamespace
class IPluginV3OneCore : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_CORE", 1, 0}; }
  virtual AsciiChar const* getPluginName() const noexcept = 0;
  virtual AsciiChar const* getPluginVersion() const noexcept = 0;
  virtual AsciiChar const* getPluginNamespace() const noexcept = 0;
};

// What the builder asks. Status returns: 0 is success.
//   slot 4 configurePlugin   5 getOutputDataTypes   6 getOutputShapes   7 supportsFormatCombination
//        8 getNbOutputs   9 getWorkspaceSize   10 getValidTactics   11 getNbTactics   12 getTimingCacheID
//        13 getFormatCombinationLimit   14 getMetadataString
class IPluginV3OneBuild : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_BUILD", 1, 0}; }
  // The types, formats and profile bounds that were settled on; called again when they change.
  virtual int32_t configurePlugin(DynamicPluginTensorDesc const* in, int32_t nbInputs,
                                  DynamicPluginTensorDesc const* out, int32_t nbOutputs) noexcept = 0;
  virtual int32_t getOutputDataTypes(DataType* outputTypes, int32_t nbOutputs, DataType const* inputTypes,
                                     int32_t nbInputs) const noexcept = 0;
  virtual int32_t getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const* shapeInputs,
                                  int32_t nbShapeInputs, DimsExprs* outputs, int32_t nbOutputs,
                                  IExprBuilder& exprBuilder) noexcept = 0;
  // Whether tensor `pos` (inputs, then outputs) may have its type and format, given those of the tensors
  // before it; tensors after it must not be looked at.
  virtual bool supportsFormatCombination(int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t nbInputs,
                                         int32_t nbOutputs) noexcept = 0;
  virtual int32_t getNbOutputs() const noexcept = 0;
  // Bytes that enqueue may need for any shape within the profile.
  virtual size_t getWorkspaceSize(DynamicPluginTensorDesc const*, int32_t, DynamicPluginTensorDesc const*,
                                  int32_t) const noexcept {
    return 0;
  }
  virtual int32_t getValidTactics(int32_t*, int32_t) noexcept { return 0; }
  // 0: one implicit tactic, number 0.
  virtual int32_t getNbTactics() noexcept { return 0; }
  // Two plugins with the same identifier may share timings; null: never cached.
  virtual AsciiChar const* getTimingCacheID() noexcept { return nullptr; }
  virtual int32_t getFormatCombinationLimit() noexcept { return 100; }
  // Free text for the engine inspector.
  virtual AsciiChar const* getMetadataString() noexcept { return nullptr; }
};

// What happens at run time.
//   slot 4 setTactic   5 onShapeChange   6 enqueue   7 attachToContext   8 getFieldsToSerialize
class IPluginV3OneRuntime : public IPluginCapability {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_RUNTIME", 1, 0}; }
  virtual int32_t setTactic(int32_t) noexcept { return 0; }
  // Before the first enqueue and whenever a shape differs from the last call's.
  virtual int32_t onShapeChange(PluginTensorDesc const* in, int32_t nbInputs, PluginTensorDesc const* out,
                                int32_t nbOutputs) noexcept = 0;
  virtual int32_t enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const* outputDesc,
                          void const* const* inputs, void* const* outputs, void* workspace,
                          cudaStream_t stream) noexcept = 0;
  // A copy for one execution context, owned by the caller.
  virtual IPluginV3* attachToContext(IPluginResourceContext* context) noexcept = 0;
  // What createPlugin(kRUNTIME) needs to make this plugin again; owned by the plugin.
  virtual PluginFieldCollection const* getFieldsToSerialize() noexcept = 0;
};

// Makes plugins of one name, version and namespace.
//   slot 4 createPlugin   5 getFieldNames   6 getPluginName   7 getPluginVersion   8 getPluginNamespace
class IPluginCreatorV3One : public IPluginCreatorInterface {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN CREATOR_V3ONE", 1, 0}; }
  // `name` is the layer's; null on failure.
  virtual IPluginV3* createPlugin(AsciiChar const* name, PluginFieldCollection const* fields,
                                  TensorRTPhase phase) noexcept = 0;
  // The attributes that a parser should pass on; `data` and `length` are of no meaning here.
  virtual PluginFieldCollection const* getFieldNames() noexcept = 0;
  virtual AsciiChar const* getPluginName() const noexcept = 0;
  virtual AsciiChar const* getPluginVersion() const noexcept = 0;
  virtual AsciiChar const* getPluginNamespace() const noexcept = 0;
};

}  // namespace v_1_0

namespace v_2_0 {

// Since TensorRT 10.3.
//   slot 15 getAliasedInput
class IPluginV3OneBuild : public v_1_0::IPluginV3OneBuild {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"PLUGIN_V3ONE_BUILD", 2, 0}; }
  // The input whose memory output `outputIndex` shares; -1 if none.
  virtual int32_t getAliasedInput(int32_t) noexcept { return -1; }
};

}  // namespace v_2_0

using v_1_0::IPluginCapability;
using v_1_0::IPluginCreatorInterface;
using v_1_0::IPluginCreatorV3One;
using v_1_0::IPluginV3;
using v_1_0::IPluginV3OneBuild;
using v_1_0::IPluginV3OneCore;
using v_1_0::IPluginV3OneRuntime;
using IPluginV3OneBuildV2 = v_2_0::IPluginV3OneBuild;

}  // namespace nvinfer1
