// What sm_90a alone has: mbarriers, the tensor memory accelerator (TMA), and products of a warpgroup (wgmma).
// Inline PTX, one function an instruction; PTX ISA 8.7, sections 9.7.13.15 (mbarrier), 9.7.9.25
// (cp.async.bulk.tensor) and 9.7.15 (wgmma). The tests' host layer has functions of the same names; elsewhere
// this compiles to nothing usable: callers stand in front of it with R1TRT_HOPPER_DEVICE.
#pragma once

#include <cuda.h>

#include "platform.cuh"

// Set in device code of sm_90a; without the `a` its instructions do not exist.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(R1TRT_SIMT_HOST)
#define R1TRT_HOPPER_DEVICE 1
#endif

namespace r1trt::kernels::hopper {

constexpr int kWarpgroup = 128;
constexpr int kSwizzleBytes = 128;    // a row of a tile in shared memory
constexpr int kSwizzleRows = 8;       // after which the pattern repeats
constexpr int kTileAlignment = 1024;  // kSwizzleBytes * kSwizzleRows

using Barrier = uint64_t;

}  // namespace r1trt::kernels::hopper

#ifdef R1TRT_SIMT_HOST
#include "simt_hopper.h"
#else

namespace r1trt::kernels::hopper {

__device__ __forceinline__ uint32_t sharedAddress(void const* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- mbarrier: `full` counts the bytes that land, `empty` the warps that have read.

__device__ __forceinline__ void initBarrier(Barrier* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(arrivals));
}

// Makes initialized barriers visible to the TMA unit.
__device__ __forceinline__ void fenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sharedAddress(barrier)) : "memory");
}

// Arrives, and expects so many bytes of TMA loads more in this phase.
__device__ __forceinline__ void arriveExpecting(Barrier* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(barrier)),
               "r"(bytes)
               : "memory");
}

__device__ __forceinline__ bool tryWait(Barrier* barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}\n"
      : "=r"(done)
      : "r"(sharedAddress(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}

// ---- TMA

__device__ __forceinline__ void prefetchMap(CUtensorMap const* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// A box of a matrix to shared memory: `column` in elements, `row`; what lies outside of the matrix is zero.
__device__ __forceinline__ void loadTile(void* shared, CUtensorMap const* map, Barrier* full, int column,
                                         int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(sharedAddress(shared)),
      "l"(map), "r"(sharedAddress(full)), "r"(column), "r"(row)
      : "memory");
}

// The same of a stack of matrices.
__device__ __forceinline__ void loadBox(void* shared, CUtensorMap const* map, Barrier* full, int column,
                                        int row, int matrix) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(sharedAddress(shared)),
      "l"(map), "r"(sharedAddress(full)), "r"(column), "r"(row), "r"(matrix)
      : "memory");
}

// ---- wgmma: D[64, N] += A[64, K] B[N, K]^T of a warpgroup, K being 32 bytes.

// Shared memory that was written by stores is read by products after this and a barrier.
__device__ __forceinline__ void fenceStores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A barrier of some of the block's threads; 0 is __syncthreads'.
template <int kBarrier, int kCount>
__device__ __forceinline__ void syncSome() {
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kCount) : "memory");
}

// The same; which barrier, a warp's lanes know alike.
template <int kCount>
__device__ __forceinline__ void syncSome(int barrier) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(kCount) : "memory");
}
// Arrives without waiting; kCount are those who arrive and those who wait.
template <int kCount>
__device__ __forceinline__ void arriveSome(int barrier) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "n"(kCount) : "memory");
}

__device__ __forceinline__ void fenceProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending groups run; the accumulators of the others may be read.
template <int kPending>
__device__ __forceinline__ void waitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Registers that a product changes are used behind it alone: without this the compiler moves their reads.
template <int kCount>
__device__ __forceinline__ void holdRegisters(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define R1TRT_REGISTERS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define R1TRT_REGISTERS_16(i) \
  R1TRT_REGISTERS_4(i), R1TRT_REGISTERS_4(i + 4), R1TRT_REGISTERS_4(i + 8), R1TRT_REGISTERS_4(i + 12)

// clang-format off: one line a row of registers.
__device__ __forceinline__ void multiplyE4m3(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, p, 1, 1;\n}\n"
      : R1TRT_REGISTERS_16(0), R1TRT_REGISTERS_16(16), R1TRT_REGISTERS_16(32), R1TRT_REGISTERS_16(48)
      : "l"(a), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void multiplyBf16(float (&d)[128], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
      "}, %128, %129, p, 1, 1, 0, 0;\n}\n"
      : R1TRT_REGISTERS_16(0), R1TRT_REGISTERS_16(16), R1TRT_REGISTERS_16(32), R1TRT_REGISTERS_16(48), R1TRT_REGISTERS_16(64), R1TRT_REGISTERS_16(80), R1TRT_REGISTERS_16(96), R1TRT_REGISTERS_16(112)
      : "l"(a), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void multiplyBf16(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
      : R1TRT_REGISTERS_16(0), R1TRT_REGISTERS_16(16), R1TRT_REGISTERS_16(32), R1TRT_REGISTERS_16(48)
      : "l"(a), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void multiplyF16(float (&d)[128], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
      "}, %128, %129, p, 1, 1, 0, 0;\n}\n"
      : R1TRT_REGISTERS_16(0), R1TRT_REGISTERS_16(16), R1TRT_REGISTERS_16(32), R1TRT_REGISTERS_16(48), R1TRT_REGISTERS_16(64), R1TRT_REGISTERS_16(80), R1TRT_REGISTERS_16(96), R1TRT_REGISTERS_16(112)
      : "l"(a), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void multiplyF16(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, p, 1, 1, 0, 0;\n}\n"
      : R1TRT_REGISTERS_16(0), R1TRT_REGISTERS_16(16), R1TRT_REGISTERS_16(32), R1TRT_REGISTERS_16(48)
      : "l"(a), "l"(b), "r"(accumulate));
}

// A from registers, B [K, N] with N along its rows: rows of 128 bytes are keys, their elements columns.
__device__ __forceinline__ void multiplyValuesBf16(float (&d)[32], uint32_t const (&a)[4], uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"
      : R1TRT_REGISTERS_16(0), R1TRT_REGISTERS_16(16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void multiplyValuesBf16(float (&d)[64], uint32_t const (&a)[4], uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
      : R1TRT_REGISTERS_16(0), R1TRT_REGISTERS_16(16), R1TRT_REGISTERS_16(32), R1TRT_REGISTERS_16(48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void multiplyValuesF16(float (&d)[32], uint32_t const (&a)[4], uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"
      : R1TRT_REGISTERS_16(0), R1TRT_REGISTERS_16(16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
}

__device__ __forceinline__ void multiplyValuesF16(float (&d)[64], uint32_t const (&a)[4], uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
      : R1TRT_REGISTERS_16(0), R1TRT_REGISTERS_16(16), R1TRT_REGISTERS_16(32), R1TRT_REGISTERS_16(48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));
}
// clang-format on

#undef R1TRT_REGISTERS_16
#undef R1TRT_REGISTERS_4

// ---- registers of a warpgroup

template <int kRegisters>
__device__ __forceinline__ void takeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void giveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace r1trt::kernels::hopper

#endif

namespace r1trt::kernels::hopper {

// Waits for the end of the phase of this parity.
__device__ __forceinline__ void wait(Barrier* barrier, uint32_t parity) {
  while (!tryWait(barrier, parity)) {
  }
}

// A tile of 128-byte rows with the 128-byte swizzle, at a multiple of kTileAlignment; `offset` in bytes goes
// along a row, in steps of 32.
__device__ __forceinline__ uint64_t tileDescriptor(void const* tile, int offset = 0) {
  constexpr uint64_t kSwizzle128 = 1ULL << 62;
  constexpr uint64_t kRowsStride = static_cast<uint64_t>(kTileAlignment >> 4) << 32;
  constexpr uint64_t kUnused = 1ULL << 16;  // the other stride: a swizzled row is the whole tile's width
  uint64_t const address = (sharedAddress(tile) + offset) >> 4 & 0x3FFF;
  return kSwizzle128 | kRowsStride | kUnused | address;
}

// B [K, N] in rows of K: groups of 64 columns of 16 bits, `group_bytes` apart; `row` is a multiple of 16.
__device__ __forceinline__ uint64_t rowsDescriptor(void const* tile, int row, int group_bytes) {
  constexpr uint64_t kSwizzle128 = 1ULL << 62;
  constexpr uint64_t kRowsStride = static_cast<uint64_t>(kTileAlignment >> 4) << 32;  // of 8 rows
  uint64_t const columns_stride = static_cast<uint64_t>(group_bytes >> 4) << 16;
  uint64_t const address = (sharedAddress(tile) + row * kSwizzleBytes) >> 4 & 0x3FFF;
  return kSwizzle128 | kRowsStride | columns_stride | address;
}

}  // namespace r1trt::kernels::hopper
