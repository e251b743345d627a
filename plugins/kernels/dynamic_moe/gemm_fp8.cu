// E4M3 by E4M3, from sm_89 on.
#include "grouped_gemm.cuh"

namespace r1trt::kernels::moe {

cudaError_t launchGemmFp8(GroupedGemm const& gemm, cudaStream_t stream) {
  if (gemm.data_type == DataType::kBFloat16) {
    using T = __nv_bfloat16;
    return dispatchGemm<Operands<T, __nv_fp8_e4m3, __nv_fp8_e4m3>>(gemm, stream);
  }
  using T = __half;
  return dispatchGemm<Operands<T, __nv_fp8_e4m3, __nv_fp8_e4m3>>(gemm, stream);
}

}  // namespace r1trt::kernels::moe
