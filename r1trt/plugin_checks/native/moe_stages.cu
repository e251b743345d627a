// The mixture of experts' own stages, one at a time, for timing. A part of the kernels' library that it can
// do without.
#include "dynamic_moe/stages.cuh"

namespace r1trt::kernels::moe {
cudaError_t launchRouterLogits(Layer const& layer, cudaStream_t stream);
}

// Stages follow one another in one workspace: a stage reads what those before it left there.
extern "C" __attribute__((visibility("default"))) int r1trt_moe_stage(
    r1trt::kernels::DynamicMoeParams const* params, int stage, cudaStream_t stream) {
  namespace moe = r1trt::kernels::moe;
  r1trt::kernels::DeviceLimits limits;
  if (cudaError_t const error = r1trt::kernels::deviceLimits(limits); error != cudaSuccess) return error;
  moe::Layer const layer = moe::layerFromParams(*params, params->sm != 0 ? params->sm : limits.sm);
  switch (stage) {
    case 0:
      return moe::launchRouterLogits(layer, stream);
    case 1:
      return moe::launchRouter(layer, stream);
    case 2:
      return moe::launchPermute(layer, stream);
    case 3:
      return moe::launchCombine(layer, stream);
    default:
      return cudaErrorInvalidValue;
  }
}
