// An operator's signature as data: what its creator lists, its fields are checked against and its inputs are
// called.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace r1trt::plugins {

constexpr char const* kNamespace = "r1trt";
constexpr char const* kVersion = "1";

struct InputSpec {
  char const* name;
  bool optional;
};

enum class AttributeType : int32_t { kInt, kFloat };

struct AttributeSpec {
  char const* name;
  AttributeType type;
  double fallback;  // taken when the node does not set it
  double minimum;
  double maximum;
};

// Every plugin also has the attribute `input_mask`, which is not in `attributes`; see inputs.h.
struct Signature {
  char const* name;
  std::vector<InputSpec> inputs;
  std::vector<char const*> outputs;
  std::vector<AttributeSpec> attributes;
};

}  // namespace r1trt::plugins
