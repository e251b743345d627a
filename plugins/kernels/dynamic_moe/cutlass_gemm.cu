// E4M3 by E4M3 with 1 x 128 and 128 x 128 scales by CUTLASS's wgmma and TMA kernels, for sm_90a. Compiled in
// where R1TRT_WITH_CUTLASS is defined and CUTLASS's headers are on the include path; needs nvcc's
// --expt-relaxed-constexpr.
#include "cutlass_gemm.h"

#ifndef R1TRT_WITH_CUTLASS

namespace r1trt::kernels::moe {

bool cutlassBuilt() {
  return false;
}

size_t cutlassWorkspaceSize() {
  return 0;
}

cudaError_t launchGemmCutlass(GroupedGemm const& /*gemm*/, cudaStream_t /*stream*/) {
  return cudaErrorNotSupported;
}

}  // namespace r1trt::kernels::moe

#else

#ifndef NDEBUG
#error "Without NDEBUG, ptxas serializes wgmma around CUTLASS's assertions."
#endif

// clang-format off: CUTLASS's headers include too little of one another for another order.
#include "cutlass/cutlass.h"
#include "cute/tensor.hpp"
#include "cutlass/gemm/dispatch_policy.hpp"
#include "cutlass/gemm/group_array_problem_shape.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/detail/blockwise_scale_layout.hpp"
// clang-format on

namespace r1trt::kernels::moe {
namespace {

namespace collective = cutlass::gemm::collective;

using Element = cutlass::float_e4m3_t;
using Output = cutlass::bfloat16_t;
using RowMajor = cutlass::layout::RowMajor;
using ColumnMajor = cutlass::layout::ColumnMajor;
using CtaTile = cute::Shape<cute::_128, cute::_128, cute::_128>;
using Cluster = cute::Shape<cute::_1, cute::_1, cute::_1>;
using Problem = cutlass::gemm::GroupProblemShape<cute::Shape<int, int, int>>;
// NOTES: scales lie along k, as the quantizing kernels and checkpoints have them.
using Scales = cutlass::detail::Sm90BlockwiseScaleConfig<1, kScaleBlock, kScaleBlock, cute::GMMA::Major::K,
                                                         cute::GMMA::Major::K>;
using LayoutA = decltype(Scales::deduce_layoutSFA());
using LayoutB = decltype(Scales::deduce_layoutSFB());

constexpr int kInputAlignment = 16, kOutputAlignment = 8;  // elements of 16 bytes

using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, CtaTile, Cluster,
    cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, RowMajor*, kOutputAlignment, Output,
    RowMajor*, kOutputAlignment, cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative,
    cutlass::epilogue::fusion::LinearCombination<Output, float>>::CollectiveOp;
using Mainloop = typename collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, cute::tuple<RowMajor*, LayoutA*>,
    kInputAlignment, Element, cute::tuple<ColumnMajor*, LayoutB*>, kInputAlignment, float, CtaTile, Cluster,
    collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>,
    cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperativeFP8Blockwise>::CollectiveOp;
using Kernel = cutlass::gemm::kernel::GemmUniversal<Problem, Mainloop, Epilogue>;
using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
using StrideA = typename Kernel::InternalStrideA;
using StrideB = typename Kernel::InternalStrideB;
using StrideD = typename Kernel::InternalStrideD;

constexpr int kMostSms = 160;
constexpr int kThreads = kMaxExperts;

// Device arrays of one element a group.
struct Groups {
  typename Problem::UnderlyingProblemShape problem[kMaxExperts];
  Element const* a[kMaxExperts];
  Element const* b[kMaxExperts];
  Output* d[kMaxExperts];
  float const* a_scale[kMaxExperts];
  float const* b_scale[kMaxExperts];
  StrideA a_stride[kMaxExperts];
  StrideB b_stride[kMaxExperts];
  StrideD d_stride[kMaxExperts];
  LayoutA a_layout[kMaxExperts];
  LayoutB b_layout[kMaxExperts];
};

__global__ void __launch_bounds__(kThreads)
    cutlassGroupsKernel(GroupedGemm const g, int count, Groups* groups) {
  int const i = static_cast<int>(threadIdx.x);
  if (i >= count) return;
  CutlassGroup const group = cutlassGroup(g, i);
  auto const shape = cute::make_shape(group.m, group.n, group.k, 1);
  groups->problem[i] = cute::make_shape(group.m, group.n, group.k);
  groups->a[i] = static_cast<Element const*>(group.a);
  groups->b[i] = static_cast<Element const*>(group.b);
  groups->d[i] = static_cast<Output*>(group.d);
  groups->a_scale[i] = group.a_scale;
  groups->b_scale[i] = group.b_scale;
  cute::get<0>(groups->a_stride[i]) = group.k;
  cute::get<0>(groups->b_stride[i]) = group.k;
  cute::get<0>(groups->d_stride[i]) = group.n;
  groups->a_layout[i] = Scales::tile_atom_to_shape_SFA(shape);
  groups->b_layout[i] = Scales::tile_atom_to_shape_SFB(shape);
}

typename Gemm::Arguments arguments(Groups* groups, int count, int num_sms) {
  cutlass::KernelHardwareInfo hardware;
  hardware.sm_count = num_sms < kMostSms ? num_sms : kMostSms;
  typename Gemm::Arguments result{};
  result.mode = cutlass::gemm::GemmUniversalMode::kGrouped;
  result.problem_shape = {count, groups->problem, nullptr};
  result.mainloop = {groups->a,       groups->a_stride, groups->b,       groups->b_stride,
                     groups->a_scale, groups->a_layout, groups->b_scale, groups->b_layout};
  result.epilogue = {{}, nullptr, nullptr, groups->d, groups->d_stride};
  result.epilogue.thread.alpha = 1.0F;
  result.hw_info = hardware;
  return result;
}

}  // namespace

bool cutlassBuilt() {
  return true;
}

size_t cutlassWorkspaceSize() {
  static size_t const size =
      alignUp(sizeof(Groups)) + alignUp(Gemm::get_workspace_size(arguments(nullptr, kMaxExperts, kMostSms)));
  return size;
}

cudaError_t launchGemmCutlass(GroupedGemm const& gemm, cudaStream_t stream) {
  DeviceLimits limits;
  if (cudaError_t const error = deviceLimits(limits); error != cudaSuccess) return error;
  int const count = gemm.offset != nullptr ? gemm.experts : 1;
  auto* const groups = static_cast<Groups*>(gemm.cutlass);
  LaunchShape const shape{"cutlass_groups", dim3(1), kThreads};
  if (cudaError_t const error = launch(shape, stream, cutlassGroupsKernel, gemm, count, groups);
      error != cudaSuccess) {
    return error;
  }
  auto const described = arguments(groups, count, limits.num_sms);
  void* const workspace = static_cast<char*>(gemm.cutlass) + alignUp(sizeof(Groups));
  Gemm product;
  if (Gemm::can_implement(described) != cutlass::Status::kSuccess) return cudaErrorNotSupported;
  if (product.initialize(described, workspace, stream) != cutlass::Status::kSuccess) return cudaErrorUnknown;
  // NOTES: CUTLASS takes the last error for its launch's own, even one that somebody left before.
  static_cast<void>(cudaGetLastError());
  return product.run(stream) == cutlass::Status::kSuccess ? cudaSuccess : cudaErrorLaunchFailure;
}

}  // namespace r1trt::kernels::moe

#endif
