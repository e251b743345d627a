// A layer's tensors as the plugins check them: by the operator's input, with types and dimensions.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "inputs.h"
#include "tensorrt.h"

namespace r1trt::plugins {

// One input of an operator. A dimension of -1 is not known yet.
struct Tensor {
  bool present = false;
  nvinfer1::DataType type = nvinfer1::DataType::kFLOAT;
  nvinfer1::Dims dims{};
};

// Every input of an operator, absent ones included, in the signature's order.
using Tensors = std::vector<Tensor>;

char const* typeName(nvinfer1::DataType type);
std::string dimsText(nvinfer1::Dims const& dims);

// Product of the dimensions; -1 if one is unknown.
int64_t elementCount(nvinfer1::Dims const& dims);

// Tensors of a layer from its list of `count` tensors; `read(position)` gives each.
template <typename Read>
Tensors tensorsFromLayer(Signature const& signature, InputMap const& map, int32_t count, Read&& read) {
  map.requireCount(count);
  Tensors tensors(signature.inputs.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    int32_t const position = map.position(static_cast<int32_t>(i), count);
    if (position >= 0) tensors[i] = read(position);
  }
  return tensors;
}

// Binds dimensions to symbols and compares them where a symbol comes again.
//
// A contract is a list of match() calls, one a tensor, such as match(kQ, {"B", "S", "H", "d"}).
class ShapeMatcher {
 public:
  ShapeMatcher(Signature const& signature, Tensors const& tensors)
      : signature_(signature), tensors_(tensors) {}

  // Checks an input's rank and dimensions; an absent one fits. Throws PluginError that names both tensors.
  void match(int32_t input, std::initializer_list<char const*> symbols);

  // What a symbol stands for; -1 if it is not known yet.
  int64_t value(char const* symbol) const;

  // The same where 0 says "not known", as sizes of a launch.
  int32_t size(char const* symbol) const;

  // Throws PluginError unless the condition holds or the symbol is unknown; `expected` ends the sentence.
  void require(char const* symbol, bool condition, std::string const& expected) const;

 private:
  struct Binding {
    std::string symbol;
    int64_t value;
    char const* tensor;
  };

  Binding const* find(char const* symbol) const;

  Signature const& signature_;
  Tensors const& tensors_;
  std::vector<Binding> bindings_;
};

}  // namespace r1trt::plugins
