// TensorRT's element types as the kernels' element types.
#pragma once

#include "../kernels/common/types.h"
#include "tensors.h"

namespace r1trt::plugins {

inline kernels::DataType kernelType(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kHALF:
      return kernels::DataType::kFloat16;
    case nvinfer1::DataType::kBF16:
      return kernels::DataType::kBFloat16;
    case nvinfer1::DataType::kFP8:
      return kernels::DataType::kFloat8E4M3;
    default:
      return kernels::DataType::kFloat32;
  }
}

// "" if a tensor has the type, else the type's name.
inline std::string unlessType(Tensor const& tensor, nvinfer1::DataType type) {
  return tensor.type == type ? "" : typeName(type);
}

}  // namespace r1trt::plugins
