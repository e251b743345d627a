// Heads of 128 elements, values of 128.
#include "attention.cuh"

namespace r1trt::kernels::hla {

cudaError_t launchAttention128(Attention const& attention, bool small, cudaStream_t stream) {
  return runPlain<Heads<128, 128>, Keys<64>>(attention, small, stream);
}

}  // namespace r1trt::kernels::hla
