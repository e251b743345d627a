// Heads of 192 elements, values of 128.
#include "attention.cuh"

namespace r1trt::kernels::hla {

cudaError_t launchAttention192(Attention const& attention, bool small, cudaStream_t stream) {
  return runPlain<Heads<192, 128>, Keys<32>>(attention, small, stream);
}

}  // namespace r1trt::kernels::hla
