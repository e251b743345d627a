// Heads of 192 elements, values of 128.
#include "attention.cuh"

namespace r1trt::kernels::hla {

cudaError_t launchAttention192(Attention const& attention, bool small, cudaStream_t stream) {
  return runPlain<192, 128, 32>(attention, small, stream);
}

}  // namespace r1trt::kernels::hla
