// Prints where each virtual function, member and enumerator sits: with the project's declarations or with
// NVIDIA's.
//
// A pointer to a virtual member function holds the function's offset in the table, plus 1 (Itanium C++ ABI).
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "common/tensorrt.h"

using namespace nvinfer1;

namespace {

template <typename Function>
int64_t slotOf(Function function) {
  int64_t words[2];
  static_assert(sizeof function == sizeof words);
  std::memcpy(words, &function, sizeof words);
  return (words[0] - 1) / 8;
}

void printInterface(char const* name, InterfaceInfo const& info) {
  std::printf("%s interface %s %d.%d\n", name, info.kind, info.major, info.minor);
}

}  // namespace

#define SLOT(Class, function) \
  std::printf("%s::%s slot %ld\n", #Class, #function, static_cast<long>(slotOf(&Class::function)))
#define SIZE(Class) std::printf("%s size %zu align %zu\n", #Class, sizeof(Class), alignof(Class))
#define OFFSET(Class, member) std::printf("%s::%s offset %zu\n", #Class, #member, offsetof(Class, member))
#define VALUE(Enum, name) std::printf("%s::%s = %d\n", #Enum, #name, static_cast<int>(Enum::name))

static void printSlots() {
  SLOT(IVersionedInterface, getAPILanguage);
  SLOT(IVersionedInterface, getInterfaceInfo);
  SLOT(apiv::VDimensionExpr, isConstant);
  SLOT(apiv::VDimensionExpr, getConstantValue);
  SLOT(apiv::VDimensionExpr, isSizeTensor);
  SLOT(apiv::VExprBuilder, constant);
  SLOT(apiv::VExprBuilder, operation);
  SLOT(apiv::VExprBuilder, declareSizeTensor);
  SLOT(IPluginV3, getCapabilityInterface);
  SLOT(IPluginV3, clone);
  SLOT(IPluginV3OneCore, getPluginName);
  SLOT(IPluginV3OneCore, getPluginVersion);
  SLOT(IPluginV3OneCore, getPluginNamespace);
  SLOT(IPluginV3OneBuildV2, configurePlugin);
  SLOT(IPluginV3OneBuildV2, getOutputDataTypes);
  SLOT(IPluginV3OneBuildV2, getOutputShapes);
  SLOT(IPluginV3OneBuildV2, supportsFormatCombination);
  SLOT(IPluginV3OneBuildV2, getNbOutputs);
  SLOT(IPluginV3OneBuildV2, getWorkspaceSize);
  SLOT(IPluginV3OneBuildV2, getValidTactics);
  SLOT(IPluginV3OneBuildV2, getNbTactics);
  SLOT(IPluginV3OneBuildV2, getTimingCacheID);
  SLOT(IPluginV3OneBuildV2, getFormatCombinationLimit);
  SLOT(IPluginV3OneBuildV2, getMetadataString);
  SLOT(IPluginV3OneBuildV2, getAliasedInput);
  SLOT(IPluginV3OneRuntime, setTactic);
  SLOT(IPluginV3OneRuntime, onShapeChange);
  SLOT(IPluginV3OneRuntime, enqueue);
  SLOT(IPluginV3OneRuntime, attachToContext);
  SLOT(IPluginV3OneRuntime, getFieldsToSerialize);
  SLOT(IPluginCreatorV3One, createPlugin);
  SLOT(IPluginCreatorV3One, getFieldNames);
  SLOT(IPluginCreatorV3One, getPluginName);
  SLOT(IPluginCreatorV3One, getPluginVersion);
  SLOT(IPluginCreatorV3One, getPluginNamespace);
}

static void printLayouts() {
  SIZE(IVersionedInterface);
  SIZE(IPluginV3);
  SIZE(IPluginV3OneCore);
  SIZE(IPluginV3OneBuild);
  SIZE(IPluginV3OneBuildV2);
  SIZE(IPluginV3OneRuntime);
  SIZE(IPluginCreatorV3One);
  SIZE(IDimensionExpr);
  SIZE(IExprBuilder);
  SIZE(DimsExprs);
  SIZE(Dims);
  SIZE(PluginTensorDesc);
  SIZE(DynamicPluginTensorDesc);
  SIZE(PluginField);
  SIZE(PluginFieldCollection);
  SIZE(InterfaceInfo);
  OFFSET(DimsExprs, nbDims);
  OFFSET(DimsExprs, d);
  OFFSET(Dims, nbDims);
  OFFSET(Dims, d);
  OFFSET(PluginTensorDesc, dims);
  OFFSET(PluginTensorDesc, type);
  OFFSET(PluginTensorDesc, format);
  OFFSET(PluginTensorDesc, scale);
  OFFSET(DynamicPluginTensorDesc, desc);
  OFFSET(DynamicPluginTensorDesc, min);
  OFFSET(DynamicPluginTensorDesc, max);
  OFFSET(DynamicPluginTensorDesc, opt);
  OFFSET(PluginField, name);
  OFFSET(PluginField, data);
  OFFSET(PluginField, type);
  OFFSET(PluginField, length);
  OFFSET(PluginFieldCollection, nbFields);
  OFFSET(PluginFieldCollection, fields);
  OFFSET(InterfaceInfo, kind);
  OFFSET(InterfaceInfo, major);
  OFFSET(InterfaceInfo, minor);
}

static void printEnumerators() {
  VALUE(DataType, kFLOAT);
  VALUE(DataType, kHALF);
  VALUE(DataType, kINT8);
  VALUE(DataType, kINT32);
  VALUE(DataType, kBOOL);
  VALUE(DataType, kUINT8);
  VALUE(DataType, kFP8);
  VALUE(DataType, kBF16);
  VALUE(DataType, kINT64);
  VALUE(DataType, kINT4);
  VALUE(DataType, kFP4);
  VALUE(DataType, kE8M0);
  VALUE(TensorFormat, kLINEAR);
  VALUE(TensorFormat, kCHW2);
  VALUE(TensorFormat, kHWC8);
  VALUE(TensorFormat, kCHW4);
  VALUE(TensorFormat, kCHW16);
  VALUE(TensorFormat, kCHW32);
  VALUE(TensorFormat, kDHWC8);
  VALUE(TensorFormat, kCDHW32);
  VALUE(TensorFormat, kHWC);
  VALUE(TensorFormat, kDLA_LINEAR);
  VALUE(TensorFormat, kDLA_HWC4);
  VALUE(TensorFormat, kHWC16);
  VALUE(TensorFormat, kDHWC);
  VALUE(PluginFieldType, kFLOAT16);
  VALUE(PluginFieldType, kFLOAT32);
  VALUE(PluginFieldType, kFLOAT64);
  VALUE(PluginFieldType, kINT8);
  VALUE(PluginFieldType, kINT16);
  VALUE(PluginFieldType, kINT32);
  VALUE(PluginFieldType, kCHAR);
  VALUE(PluginFieldType, kDIMS);
  VALUE(PluginFieldType, kUNKNOWN);
  VALUE(PluginFieldType, kBF16);
  VALUE(PluginFieldType, kINT64);
  VALUE(PluginFieldType, kFP8);
  VALUE(PluginFieldType, kINT4);
  VALUE(PluginFieldType, kFP4);
  VALUE(TensorRTPhase, kBUILD);
  VALUE(TensorRTPhase, kRUNTIME);
  VALUE(PluginCapabilityType, kCORE);
  VALUE(PluginCapabilityType, kBUILD);
  VALUE(PluginCapabilityType, kRUNTIME);
  VALUE(APILanguage, kCPP);
  VALUE(APILanguage, kPYTHON);
  VALUE(DimensionOperation, kSUM);
  VALUE(DimensionOperation, kPROD);
  VALUE(DimensionOperation, kMAX);
  VALUE(DimensionOperation, kMIN);
  VALUE(DimensionOperation, kSUB);
  VALUE(DimensionOperation, kEQUAL);
  VALUE(DimensionOperation, kLESS);
  VALUE(DimensionOperation, kFLOOR_DIV);
  VALUE(DimensionOperation, kCEIL_DIV);
}

// The least that implements each interface, for its name, its version and its defaults.
struct Core final : IPluginV3OneCore {
  AsciiChar const* getPluginName() const noexcept override { return ""; }
  AsciiChar const* getPluginVersion() const noexcept override { return ""; }
  AsciiChar const* getPluginNamespace() const noexcept override { return ""; }
};

template <typename Base>
struct Build final : Base {
  int32_t configurePlugin(DynamicPluginTensorDesc const*, int32_t, DynamicPluginTensorDesc const*,
                          int32_t) noexcept override {
    return 0;
  }
  int32_t getOutputDataTypes(DataType*, int32_t, DataType const*, int32_t) const noexcept override {
    return 0;
  }
  int32_t getOutputShapes(DimsExprs const*, int32_t, DimsExprs const*, int32_t, DimsExprs*, int32_t,
                          IExprBuilder&) noexcept override {
    return 0;
  }
  bool supportsFormatCombination(int32_t, DynamicPluginTensorDesc const*, int32_t,
                                 int32_t) noexcept override {
    return false;
  }
  int32_t getNbOutputs() const noexcept override { return 0; }
};

struct Runtime final : IPluginV3OneRuntime {
  int32_t onShapeChange(PluginTensorDesc const*, int32_t, PluginTensorDesc const*,
                        int32_t) noexcept override {
    return 0;
  }
  int32_t enqueue(PluginTensorDesc const*, PluginTensorDesc const*, void const* const*, void* const*, void*,
                  cudaStream_t) noexcept override {
    return 0;
  }
  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return nullptr; }
  PluginFieldCollection const* getFieldsToSerialize() noexcept override { return nullptr; }
};

struct Plugin final : IPluginV3 {
  IPluginCapability* getCapabilityInterface(PluginCapabilityType) noexcept override { return nullptr; }
  IPluginV3* clone() noexcept override { return nullptr; }
};

struct Creator final : IPluginCreatorV3One {
  IPluginV3* createPlugin(AsciiChar const*, PluginFieldCollection const*, TensorRTPhase) noexcept override {
    return nullptr;
  }
  PluginFieldCollection const* getFieldNames() noexcept override { return nullptr; }
  AsciiChar const* getPluginName() const noexcept override { return ""; }
  AsciiChar const* getPluginVersion() const noexcept override { return ""; }
  AsciiChar const* getPluginNamespace() const noexcept override { return ""; }
};

static void printInterfaces() {
  printInterface("IPluginV3", Plugin().getInterfaceInfo());
  printInterface("IPluginV3OneCore", Core().getInterfaceInfo());
  printInterface("IPluginV3OneBuild", Build<IPluginV3OneBuild>().getInterfaceInfo());
  printInterface("IPluginV3OneBuildV2", Build<IPluginV3OneBuildV2>().getInterfaceInfo());
  printInterface("IPluginV3OneRuntime", Runtime().getInterfaceInfo());
  printInterface("IPluginCreatorV3One", Creator().getInterfaceInfo());
  Build<IPluginV3OneBuildV2> build;
  std::printf("defaults: workspace %zu tactics %d valid %d limit %d alias %d id %d metadata %d tactic %d\n",
              build.getWorkspaceSize(nullptr, 0, nullptr, 0), build.getNbTactics(),
              build.getValidTactics(nullptr, 0), build.getFormatCombinationLimit(), build.getAliasedInput(0),
              build.getTimingCacheID() != nullptr, build.getMetadataString() != nullptr,
              Runtime().setTactic(0));
}

int main() {
  printSlots();
  printLayouts();
  printEnumerators();
  printInterfaces();
}
