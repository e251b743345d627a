#include "scale_layout.h"

#include <initializer_list>

#include "../common/error.h"

namespace r1trt::plugins {

namespace {

using kernels::ScaleLayout;

constexpr int64_t kBlock = 128;

int64_t blocks(int64_t extent) {
  return (extent + kBlock - 1) / kBlock;
}

// Scales of one matrix.
int64_t countOf(ScaleLayout layout, int64_t rows, int64_t columns) {
  switch (layout) {
    case ScaleLayout::kPerTensor:
      return 1;
    case ScaleLayout::kPerChannel:
      return rows;
    case ScaleLayout::kBlock128:
      return blocks(rows) * blocks(columns);
  }
  return 0;
}

bool isMatrixForm(ScaleLayout layout, nvinfer1::Dims const& dims, nvinfer1::Dims const& weight) {
  if (layout == ScaleLayout::kPerChannel) {
    return dims.nbDims == 2 && dims.d[0] == weight.d[0] && dims.d[1] == weight.d[1];
  }
  return layout == ScaleLayout::kBlock128 && dims.nbDims == 3 && dims.d[0] == weight.d[0] &&
         dims.d[1] == blocks(weight.d[1]) && dims.d[2] == blocks(weight.d[2]);
}

}  // namespace

WeightScales scalesFromTensor(char const* name, Tensor const& scales, Tensor const& weight,
                              Tensor const& shared) {
  bool const known = elementCount(scales.dims) >= 0 && elementCount(weight.dims) >= 0 &&
                     (!shared.present || elementCount(shared.dims) >= 0);
  if (!known) return {};
  int64_t const experts = weight.dims.d[0], rows = weight.dims.d[1], columns = weight.dims.d[2];
  WeightScales found{};
  int fits = 0;
  for (ScaleLayout layout : {ScaleLayout::kPerTensor, ScaleLayout::kPerChannel, ScaleLayout::kBlock128}) {
    int64_t const routed = experts * countOf(layout, rows, columns);
    int64_t const behind = shared.present ? countOf(layout, shared.dims.d[0], columns) : 0;
    bool const vector = scales.dims.nbDims == 1 && scales.dims.d[0] == routed + behind;
    bool const matrix = !shared.present && isMatrixForm(layout, scales.dims, weight.dims);
    // Where one block is the whole matrix, blocks are the same as one scale a matrix.
    bool const same = fits > 0 && found.layout == ScaleLayout::kPerTensor && found.routedCount == routed;
    if (!(vector || matrix) || same) continue;
    found = {layout, routed};
    ++fits;
  }
  if (fits == 1) return found;
  throw PluginError(std::string("input '") + name + "' is " + dimsText(scales.dims) + " for weights " +
                    dimsText(weight.dims) +
                    (shared.present ? " and " + dimsText(shared.dims) : std::string()) +
                    (fits == 0 ? "; one scale a matrix, output row or 128 x 128 block expected"
                               : "; its length fits more than one layout"));
}

void requireOneElement(char const* name, Tensor const& tensor) {
  if (!tensor.present) return;
  int64_t const count = elementCount(tensor.dims);
  if (count == 1 || count < 0) return;
  throw PluginError(std::string("input '") + name + "' is " + dimsText(tensor.dims) +
                    "; one number expected");
}

}  // namespace r1trt::plugins
