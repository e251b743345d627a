// How the scales of FP8 expert weights are laid out, from their shapes.
#pragma once

#include "../common/tensors.h"
#include "../kernels/dynamic_moe/dynamic_moe.h"

namespace r1trt::plugins {

struct WeightScales {
  kernels::ScaleLayout layout = kernels::ScaleLayout::kPerTensor;
  int64_t routedCount = 0;  // scales of the routed experts
};

// Recognizes the scales of a weight [E, rows, columns], `shared` [shared rows, columns] being the shared
// expert's:
//   [E]                                                        one an expert
//   [E, rows]                                                  one an output row
//   [E, ceil(rows / 128), ceil(columns / 128)]                 one a 128 x 128 block
// With a shared expert: a vector, its scales behind the routed experts' in the same layout. Vectors are told
// apart by their length. Throws PluginError if none fits, or two that differ do. Unknown dimensions give the
// default.
WeightScales scalesFromTensor(char const* name, Tensor const& scales, Tensor const& weight,
                              Tensor const& shared);

// Throws PluginError unless an input is absent or has one element.
void requireOneElement(char const* name, Tensor const& tensor);

}  // namespace r1trt::plugins
