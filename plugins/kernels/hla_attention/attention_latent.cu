// One latent head of 576 elements, whose first 512 are the value. NOTES: the output of 16 rows alone would
// fill a warp's registers, so warps share its columns.
#include "attention.cuh"

namespace r1trt::kernels::hla {
namespace {

template <class T>
cudaError_t run(Attention const& a, bool small, cudaStream_t stream) {
  using Head = Latents<576, 512>;
  return small ? runAttention<Tile<T, Head, Keys<32>, Warps<1, 1, 4>>>(a, stream)
               : runAttention<Tile<T, Head, Keys<32>, Warps<4, 1, 2>>>(a, stream);
}

}  // namespace

cudaError_t launchAttentionLatent(Attention const& attention, bool small, cudaStream_t stream) {
  return attention.params.data_type == DataType::kBFloat16 ? run<__nv_bfloat16>(attention, small, stream)
                                                           : run<__half>(attention, small, stream);
}

}  // namespace r1trt::kernels::hla
