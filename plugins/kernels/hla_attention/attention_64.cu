// Heads of 64 elements, values of 64.
#include "attention.cuh"

namespace r1trt::kernels::hla {

cudaError_t launchAttention64(Attention const& attention, bool small, cudaStream_t stream) {
  return runPlain<Heads<64, 64>, Keys<64>>(attention, small, stream);
}

}  // namespace r1trt::kernels::hla
