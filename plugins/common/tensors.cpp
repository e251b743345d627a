#include "tensors.h"

#include <limits>

#include "error.h"

namespace r1trt::plugins {

char const* typeName(nvinfer1::DataType type) {
  static constexpr char const* kNames[] = {"FLOAT", "HALF", "INT8",  "INT32", "BOOL", "UINT8",
                                           "FP8",   "BF16", "INT64", "INT4",  "FP4",  "E8M0"};
  auto const index = static_cast<size_t>(type);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

std::string dimsText(nvinfer1::Dims const& dims) {
  std::string text = "[";
  for (int32_t i = 0; i < dims.nbDims; ++i) {
    text += (i > 0 ? ", " : "") + (dims.d[i] < 0 ? std::string("?") : std::to_string(dims.d[i]));
  }
  return text + "]";
}

int64_t elementCount(nvinfer1::Dims const& dims) {
  int64_t count = 1;
  for (int32_t i = 0; i < dims.nbDims; ++i) {
    if (dims.d[i] < 0) return -1;
    if (__builtin_mul_overflow(count, dims.d[i], &count))
      throw PluginError("too many elements: " + dimsText(dims));
  }
  return count;
}

void ShapeMatcher::match(int32_t input, std::initializer_list<char const*> symbols) {
  Tensor const& tensor = tensors_[input];
  if (!tensor.present) return;
  char const* name = signature_.inputs[input].name;
  std::string shape = "[";
  for (char const* symbol : symbols) shape += (shape.size() > 1 ? ", " : "") + std::string(symbol);
  shape += "]";
  auto const what = [&] { return std::string("input '") + name + "' is " + dimsText(tensor.dims); };
  if (tensor.dims.nbDims != static_cast<int32_t>(symbols.size()))
    throw PluginError(what() + "; " + shape + " expected");
  int32_t i = 0;
  for (char const* symbol : symbols) {
    int64_t const extent = tensor.dims.d[i++];
    if (extent < 0) continue;
    if (extent > std::numeric_limits<int32_t>::max())
      throw PluginError(what() + "; a dimension exceeds 2^31 - 1");
    Binding const* known = find(symbol);
    if (known == nullptr) {
      bindings_.push_back({symbol, extent, name});
    } else if (known->value != extent) {
      throw PluginError(what() + "; " + shape + " expected, and " + symbol + " is " +
                        std::to_string(known->value) + " in '" + known->tensor + "'");
    }
  }
}

ShapeMatcher::Binding const* ShapeMatcher::find(char const* symbol) const {
  for (Binding const& binding : bindings_) {
    if (binding.symbol == symbol) return &binding;
  }
  return nullptr;
}

int64_t ShapeMatcher::value(char const* symbol) const {
  Binding const* binding = find(symbol);
  return binding == nullptr ? -1 : binding->value;
}

int32_t ShapeMatcher::size(char const* symbol) const {
  int64_t const extent = value(symbol);
  return extent < 0 ? 0 : static_cast<int32_t>(extent);
}

void ShapeMatcher::require(char const* symbol, bool condition, std::string const& expected) const {
  Binding const* binding = find(symbol);
  if (binding == nullptr || condition) return;
  throw PluginError(std::string(symbol) + " is " + std::to_string(binding->value) + " in '" +
                    binding->tensor + "'; " + expected);
}

}  // namespace r1trt::plugins
