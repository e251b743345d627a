// Grouped products for sm_90a: out[rows, N] = a[rows, K] weight[e]^T, e by row, FP8 or 16 bits.
//
// A block stays on its SM and takes one tile after the other. One warp loads, by TMA, into a ring of stages;
// two warpgroups multiply by wgmma, 64 rows each, into FP32. FP8 is promoted every 128 along K: a partial sum
// of 128 terms is scaled, by what its row and its block of the weight have there, and added in FP32 (the
// tensor cores add E4M3 in about 14 bits).
//
// Bytes: every weight once, 3 E D F of them, and the rows of `a` and `out`; FLOPs: 2 rows N K. Below about
// 300 rows an expert (FP8, H100: 1979 TFLOP/s over 3.35 TB/s) the weights are the bound.
#include "hopper_gemm.h"

#ifndef R1TRT_HOPPER_KERNELS

namespace r1trt::kernels::moe {

bool hopperBuilt() {
  return false;
}

cudaError_t launchGemmHopper(GroupedGemm const& /*gemm*/, cudaStream_t /*stream*/) {
  return cudaErrorNotSupported;
}

}  // namespace r1trt::kernels::moe

#else

#include "hopper_tile.cuh"

namespace r1trt::kernels::moe {
namespace {

constexpr int64_t kFewRows = 512;  // of an expert on average: tiles of 64 rows

template <class Shape>
__global__ void __launch_bounds__(kThreads, 1) hopperProduct(__grid_constant__ const Problem p) {
#ifdef R1TRT_HOPPER_DEVICE
  R1TRT_DYNAMIC_SHARED(memory);
  uintptr_t const address = reinterpret_cast<uintptr_t>(memory);
  auto& shared =
      *reinterpret_cast<Shared<Shape>*>((address + kTileAlignment - 1) / kTileAlignment * kTileAlignment);
  if (threadIdx.x == 0) {
    prefetchMap(&p.a);
    for (int stage = 0; stage < Shape::kStages; ++stage) {
      initBarrier(&shared.full[stage], 1);
      initBarrier(&shared.empty[stage], kConsumerWarps);
    }
    fenceBarrierInit();
  }
  if (threadIdx.x < kWarpSize) countTiles<Shape::kRows>(p, shared.first);
  __syncthreads();
  int const columns = ceilDiv(p.n, Shape::kColumns);
  int const steps = ceilDiv(p.k * Shape::Type::kSize, kSwizzleBytes);
  int const tiles = shared.first[p.groups] * columns;
  if (threadIdx.x < kProducers) {
    giveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) produce<Shape>(p, shared, tiles, columns, steps);
  } else {
    takeRegisters<kConsumerRegisters>();
    consume<Shape>(p, shared, tiles, columns, steps);
  }
#endif
}

template <class Shape>
cudaError_t launchTiles(GroupedGemm const& g, cudaStream_t stream) {
  using Type = typename Shape::Type;
  constexpr int kBoxColumns = kSwizzleBytes / Type::kSize;
  Problem p{};
  p.a_scale = g.a.scale != nullptr ? g.a.scale : g.a_scale;
  p.a_scale_pitch = g.a.scale != nullptr ? 1 : 0;
  p.weight_pitch = g.scale_layout == ScaleLayout::kBlock128 ? 1 : 0;
  p.layout = g.scale_layout;
  p.out = g.out;
  p.offset = g.offset;
  p.rows = g.rows;
  p.experts = g.experts;
  p.groups = g.groups;
  p.parts = g.parts;
  p.n = g.n;
  p.k = g.k;
  MatrixMap const a{g.a.data, Type::kMapType, Type::kSize, g.rows, g.k, Shape::kRows, kBoxColumns};
  cudaError_t error = encodeTensorMap(a, p.a);
  for (int part = 0; part < mapsOf(g) && error == cudaSuccess; ++part) {
    int64_t const matrices = matricesOf(g, part);
    MoeWeight const& weight = g.weight[part];
    p.weight_scale[part] = weight.scale;
    error = encodeTensorMap(
        {weight.data, Type::kMapType, Type::kSize, matrices * g.n, g.k, Shape::kColumns, kBoxColumns},
        p.weight[part]);
  }
  DeviceLimits limits;
  if (error == cudaSuccess) error = deviceLimits(limits);
  if (error != cudaSuccess) return error;
  constexpr size_t kSharedBytes = sizeof(Shared<Shape>) + kTileAlignment;
  LaunchShape const shape{"hopperProduct", dim3(limits.num_sms), kThreads, kSharedBytes};
  return launch(shape, stream, hopperProduct<Shape>, p);
}

template <class Type>
cudaError_t launchProduct(GroupedGemm const& g, cudaStream_t stream) {
  bool const few = g.rows <= kFewRows * g.groups;
  if constexpr (Type::kScaled) {
    return few ? launchTiles<TileOf<Type, 128, 2, 5>>(g, stream)
               : launchTiles<TileOf<Type, 128, 1, 6>>(g, stream);
  } else {
    return few ? launchTiles<TileOf<Type, 128, 2, 5>>(g, stream)
               : launchTiles<TileOf<Type, 256, 1, 4>>(g, stream);
  }
}

}  // namespace

bool hopperBuilt() {
  return true;
}

cudaError_t launchGemmHopper(GroupedGemm const& g, cudaStream_t stream) {
  if (g.rows == 0) return cudaSuccess;
  bool const half = g.data_type == DataType::kFloat16;
  if (g.quantized) {
    return half ? launchProduct<Float8<__half>>(g, stream) : launchProduct<Float8<__nv_bfloat16>>(g, stream);
  }
  return half ? launchProduct<Float16>(g, stream) : launchProduct<Bfloat16>(g, stream);
}

}  // namespace r1trt::kernels::moe

#endif
