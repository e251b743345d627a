// Tensor-core and asynchronous-copy instructions: PTX on the device, an exact emulation on the host.
#pragma once

#include "platform.cuh"

namespace r1trt::kernels {

__device__ __forceinline__ uint32_t sharedAddress([[maybe_unused]] void const* pointer) {
#ifdef R1TRT_SIMT_HOST
  return 0;
#else
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
#endif
}

// Copies 16 bytes to shared memory, or writes zeros there: of what is not valid nothing is read (PTX ISA,
// cp.async, ignore-src), so that its address may be any.
__device__ __forceinline__ void copyAsync16(void* target, void const* source, bool valid) {
#ifdef R1TRT_SIMT_HOST
  simt::copyAsync(target, source, 16, valid ? 16 : 0);
#else
  asm volatile(
      "{\n"
      ".reg .pred ignore;\n"
      "setp.eq.u32 ignore, %2, 0;\n"
      "cp.async.cg.shared.global [%0], [%1], 16, ignore;\n"
      "}" ::"r"(sharedAddress(target)),
      "l"(source), "r"(valid ? 1U : 0U)
      : "memory");
#endif
}

__device__ __forceinline__ void copyCommit() {
#ifdef R1TRT_SIMT_HOST
  simt::copyCommit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `kGroupsLeft` of this thread's groups are under way.
template <int kGroupsLeft>
__device__ __forceinline__ void copyWait() {
#ifdef R1TRT_SIMT_HOST
  simt::copyWait(kGroupsLeft);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void ldmatrixX4(uint32_t (&matrices)[4], void const* row) {
#ifdef R1TRT_SIMT_HOST
  simt::ldmatrix<4, false>(matrices, row);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(sharedAddress(row))
               : "memory");
#endif
}

__device__ __forceinline__ void ldmatrixX4Transposed(uint32_t (&matrices)[4], void const* row) {
#ifdef R1TRT_SIMT_HOST
  simt::ldmatrix<4, true>(matrices, row);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(sharedAddress(row))
               : "memory");
#endif
}

#define R1TRT_MMA(instruction)                                                                \
  asm volatile(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

// d[16, 8] += a[16, kK] b[8, kK]^T by one warp. A register holds neighbours along k, for which shared memory
// with k innermost and ldmatrix give the right layout for every element size.
template <class T>
struct Mma;

template <>
struct Mma<__nv_bfloat16> {
  static constexpr int kK = 16;
  static __device__ __forceinline__ void run(float (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2]) {
#ifdef R1TRT_SIMT_HOST
    simt::mma<simt::BFloat16, kK>(d, a, b, d);
#else
    R1TRT_MMA("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
#endif
  }
};

template <>
struct Mma<__half> {
  static constexpr int kK = 16;
  static __device__ __forceinline__ void run(float (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2]) {
#ifdef R1TRT_SIMT_HOST
    simt::mma<simt::Float16, kK>(d, a, b, d);
#else
    R1TRT_MMA("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32");
#endif
  }
};

// From sm_89 on; launches on older ones are refused, and the body traps.
template <>
struct Mma<__nv_fp8_e4m3> {
  static constexpr int kK = 32;
  static __device__ __forceinline__ void run([[maybe_unused]] float (&d)[4],
                                             [[maybe_unused]] uint32_t const (&a)[4],
                                             [[maybe_unused]] uint32_t const (&b)[2]) {
#ifdef R1TRT_SIMT_HOST
    simt::mma<simt::Float8E4M3, kK>(d, a, b, d);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
    R1TRT_MMA("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32");
#else
    __trap();
#endif
  }
};

#undef R1TRT_MMA

}  // namespace r1trt::kernels
