// Which of an operator's inputs a layer has, and where.
#pragma once

#include <cstdint>
#include <vector>

#include "signature.h"

namespace r1trt::plugins {

constexpr char const* kInputMask = "input_mask";

// Maps an operator's inputs to a layer's positions.
//
// A TensorRT layer has a plain list of tensors, and the ONNX parser has no word for an absent input in the
// middle of it. So a node leaves absent inputs out, and bit i of its attribute `input_mask` says that input i
// is there. Mask 0 means that the inputs stand at their own positions, and only trailing ones may be missing.
class InputMap {
 public:
  // Throws PluginError if the mask lacks a required input or names one that the operator does not have.
  InputMap(Signature const& signature, int32_t mask);

  int32_t mask() const { return mask_; }

  // The position of input `index` among the `count` inputs of a layer; -1 if it is absent.
  int32_t position(int32_t index, int32_t count) const;

  // Whether input `index` is there, before the layer's inputs are known: with mask 0, every one is taken to
  // be.
  bool has(int32_t index) const;

  // Throws PluginError unless a layer with `count` inputs fits.
  void requireCount(int32_t count) const;

  // The operator's input at `position`.
  int32_t indexAt(int32_t position) const;

 private:
  Signature const& signature_;
  int32_t mask_;
  std::vector<int32_t> positions_;  // per input of the operator; -1: absent
  std::vector<int32_t> indices_;    // per position of the layer
};

}  // namespace r1trt::plugins
