// E4M3 weights by BF16 or FP16 activations: for architectures without FP8 tensor cores.
#include "grouped_gemm.cuh"

namespace r1trt::kernels::moe {

cudaError_t launchGemmWidened(GroupedGemm const& gemm, cudaStream_t stream) {
  if (gemm.data_type == DataType::kBFloat16) {
    using T = __nv_bfloat16;
    return dispatchGemm<Operands<T, T, __nv_fp8_e4m3>>(gemm, stream);
  }
  using T = __half;
  return dispatchGemm<Operands<T, T, __nv_fp8_e4m3>>(gemm, stream);
}

}  // namespace r1trt::kernels::moe
