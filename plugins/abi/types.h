// TensorRT's plain types as a plugin library sees them: enumerations and structures, with their layout
// asserted.
//
// Interface facts of TensorRT 10.0 to 11.4 on Linux (Itanium C++ ABI, 64-bit), in this project's own words.
// Only what the plugins touch is declared, and nothing here needs TensorRT to be installed. The offsets
// asserted at the end were compared with NVIDIA's own headers; tests/plugins/abi compares them again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace nvinfer1 {

using AsciiChar = char;

// Element type of a tensor. kFP4 exists since 10.8, kE8M0 since 10.12; older libraries never hand them out.
enum class DataType : int32_t {
  kFLOAT = 0,
  kHALF = 1,
  kINT8 = 2,
  kINT32 = 3,
  kBOOL = 4,
  kUINT8 = 5,
  kFP8 = 6,
  kBF16 = 7,
  kINT64 = 8,
  kINT4 = 9,
  kFP4 = 10,
  kE8M0 = 11,
};

// Memory layout of a tensor. The plugins take kLINEAR, the row-major one; the others are packed vectors of
// channels.
enum class TensorFormat : int32_t {
  kLINEAR = 0,
  kCHW2 = 1,
  kHWC8 = 2,
  kCHW4 = 3,
  kCHW16 = 4,
  kCHW32 = 5,
  kDHWC8 = 6,
  kCDHW32 = 7,
  kHWC = 8,
  kDLA_LINEAR = 9,
  kDLA_HWC4 = 10,
  kHWC16 = 11,
  kDHWC = 12,
};

// Element type of a plugin field. kINT4 exists since 10.3, kFP4 since 10.13 at the latest.
enum class PluginFieldType : int32_t {
  kFLOAT16 = 0,
  kFLOAT32 = 1,
  kFLOAT64 = 2,
  kINT8 = 3,
  kINT16 = 4,
  kINT32 = 5,
  kCHAR = 6,
  kDIMS = 7,
  kUNKNOWN = 8,
  kBF16 = 9,
  kINT64 = 10,
  kFP8 = 11,
  kINT4 = 12,
  kFP4 = 13,
};

// Who asks a creator for a plugin: a builder (fields are the node's attributes) or a runtime (fields are what
// getFieldsToSerialize gave).
enum class TensorRTPhase : int32_t { kBUILD = 0, kRUNTIME = 1 };

enum class PluginCapabilityType : int32_t { kCORE = 0, kBUILD = 1, kRUNTIME = 2 };

enum class APILanguage : int32_t { kCPP = 0, kPYTHON = 1 };

// What IExprBuilder::operation computes of two dimensions.
enum class DimensionOperation : int32_t {
  kSUM = 0,
  kPROD = 1,
  kMAX = 2,
  kMIN = 3,
  kSUB = 4,
  kEQUAL = 5,
  kLESS = 6,
  kFLOOR_DIV = 7,
  kCEIL_DIV = 8,
};

// Name and version of an interface; compared by `kind` and `major`.
struct InterfaceInfo {
  AsciiChar const* kind;
  int32_t major;
  int32_t minor;
};

// Extents of a tensor; -1 is one that is not known yet.
struct Dims64 {
  static constexpr int32_t MAX_DIMS = 8;
  int32_t nbDims;
  int64_t d[MAX_DIMS];
};
using Dims = Dims64;

// A tensor as enqueue meets it. `scale` belongs to INT8's implicit quantization, which no longer exists.
struct PluginTensorDesc {
  Dims dims;
  DataType type;
  TensorFormat format;
  float scale;
};

// A tensor as the builder knows it: `desc.dims` with -1 where dynamic, and the optimization profile's bounds.
struct DynamicPluginTensorDesc {
  PluginTensorDesc desc;
  Dims min;
  Dims max;
  Dims opt;
};

// One named attribute: `length` elements of `type` at `data`. Owned by whoever made it.
struct PluginField {
  AsciiChar const* name;
  void const* data;
  PluginFieldType type;
  int32_t length;

  PluginField(AsciiChar const* name = nullptr, void const* data = nullptr,
              PluginFieldType type = PluginFieldType::kUNKNOWN, int32_t length = 0) noexcept
      : name(name), data(data), type(type), length(length) {}
};

struct PluginFieldCollection {
  int32_t nbFields{0};
  PluginField const* fields{nullptr};
};

// Each of these is part of the binary interface: a change here is a library that crashes inside TensorRT.
static_assert(sizeof(void*) == 8, "only 64-bit Linux is described");
static_assert(std::is_same_v<std::underlying_type_t<DataType>, int32_t>);
static_assert(sizeof(InterfaceInfo) == 16 && offsetof(InterfaceInfo, major) == 8);
static_assert(sizeof(Dims) == 72 && offsetof(Dims, d) == 8);
static_assert(sizeof(PluginTensorDesc) == 88 && offsetof(PluginTensorDesc, type) == 72);
static_assert(offsetof(PluginTensorDesc, format) == 76 && offsetof(PluginTensorDesc, scale) == 80);
static_assert(sizeof(DynamicPluginTensorDesc) == 304 && offsetof(DynamicPluginTensorDesc, min) == 88);
static_assert(offsetof(DynamicPluginTensorDesc, max) == 160 && offsetof(DynamicPluginTensorDesc, opt) == 232);
static_assert(sizeof(PluginField) == 24 && offsetof(PluginField, type) == 16);
static_assert(sizeof(PluginFieldCollection) == 16 && offsetof(PluginFieldCollection, fields) == 8);

}  // namespace nvinfer1
