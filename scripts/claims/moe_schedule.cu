// The kernels' own schedule of a mixture's rows, by a tile of the caller's choice: the router alone, without
// the products behind it.
#include <new>

#include "dynamic_moe/stages.cuh"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace kernels = r1trt::kernels;

EXPORT int claims_moe_params_size() {
  return static_cast<int>(sizeof(kernels::DynamicMoeParams));
}

EXPORT void claims_moe_defaults(void* memory) {
  new (memory) kernels::DynamicMoeParams;
}

EXPORT size_t claims_moe_workspace(kernels::DynamicMoeParams const* params) {
  return kernels::dynamicMoeWorkspaceSize(*params);
}

// expert, row [T, K], -1 where none is kept; offset, tile_offset [E + 1]; tile_expert [T * K + E]: more tiles
// than any tile_rows needs.
EXPORT int claims_moe_schedule(kernels::DynamicMoeParams const* params, int tile_rows, int32_t* expert,
                               int32_t* row, int32_t* offset, int32_t* tile_offset, int32_t* tile_expert) {
  kernels::moe::Layer layer = kernels::moe::layerFromParams(*params, params->sm);
  layer.tile_rows = tile_rows;
  layer.grouped = false;
  kernels::moe::Routing& routing = layer.workspace.routing;
  routing.expert = expert;
  routing.row = row;
  routing.offset = offset;
  routing.tile_offset = tile_offset;
  routing.tile_expert = tile_expert;
  return kernels::moe::launchRouter(layer, nullptr);
}
