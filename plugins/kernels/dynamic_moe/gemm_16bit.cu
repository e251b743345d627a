// BF16 by BF16, and FP16 by FP16.
#include "grouped_gemm.cuh"

namespace r1trt::kernels::moe {

cudaError_t launchGemm16Bit(GroupedGemm const& gemm, cudaStream_t stream) {
  if (gemm.data_type == DataType::kBFloat16) {
    using T = __nv_bfloat16;
    return dispatchGemm<Operands<T, T, T>>(gemm, stream);
  }
  using T = __half;
  return dispatchGemm<Operands<T, T, T>>(gemm, stream);
}

}  // namespace r1trt::kernels::moe
