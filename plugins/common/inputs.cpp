#include "inputs.h"

#include <string>

#include "error.h"

namespace r1trt::plugins {

InputMap::InputMap(Signature const& signature, int32_t mask) : signature_(signature), mask_(mask) {
  auto const count = static_cast<int32_t>(signature.inputs.size());
  if (mask < 0 || mask >= (1 << count)) {
    throw PluginError(std::string(kInputMask) + " is " + std::to_string(mask) + "; the operator has " +
                      std::to_string(count) + " inputs, so it is from 0 to " +
                      std::to_string((1 << count) - 1));
  }
  for (int32_t i = 0; i < count; ++i) {
    bool const present = mask == 0 || (mask >> i & 1) != 0;
    if (!present && !signature.inputs[i].optional) {
      throw PluginError(std::string(kInputMask) + " " + std::to_string(mask) + " lacks the required input '" +
                        signature.inputs[i].name + "' (bit " + std::to_string(i) + ")");
    }
    positions_.push_back(present ? static_cast<int32_t>(indices_.size()) : -1);
    if (present) indices_.push_back(i);
  }
}

int32_t InputMap::position(int32_t index, int32_t count) const {
  int32_t const position = positions_[index];
  return position < count ? position : -1;
}

bool InputMap::has(int32_t index) const {
  return positions_[index] >= 0;
}

void InputMap::requireCount(int32_t count) const {
  auto const expected = static_cast<int32_t>(indices_.size());
  bool fits = count == expected;
  if (mask_ == 0 && count < expected) {
    fits = true;
    for (int32_t i = count; i < expected; ++i) fits = fits && signature_.inputs[i].optional;
  }
  if (!fits) {
    throw PluginError("layer has " + std::to_string(count) + " inputs; " + std::to_string(expected) +
                      " expected with " + kInputMask + " " + std::to_string(mask_) +
                      (mask_ == 0 ? ", of which trailing optional ones may be left out" : ""));
  }
}

int32_t InputMap::indexAt(int32_t position) const {
  if (position < 0 || position >= static_cast<int32_t>(indices_.size())) {
    throw PluginError("no input at position " + std::to_string(position));
  }
  return indices_[position];
}

}  // namespace r1trt::plugins
