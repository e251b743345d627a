// The products of the latent form's tiles by wgmma (PTX ISA 8.7, section 9.7.15), of BF16 or FP16, into FP32.
// On the tests' host layer by its functions.
#pragma once

#include <type_traits>

#include "../common/hopper.cuh"

namespace r1trt::kernels::hla::latent {

#ifdef R1TRT_SIMT_HOST
template <class T>
void multiplyScores(float (&d)[32], uint64_t q, uint64_t k, int more) {
  hopper::multiplyTiles(hopper::kOperand<T>, d, q, k, more);
}
template <class T>
void addValues(float (&d)[128], uint64_t p, uint64_t v) {
  hopper::multiplyValues(hopper::kOperand<T>, d, nullptr, p, v, 1);
}
template <class T>
void addValues(float (&d)[128], uint32_t const (&p)[4], uint64_t v) {
  hopper::multiplyValues(hopper::kOperand<T>, d, p, 0, v, 1);
}
#else

#define R1TRT_REGISTERS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define R1TRT_REGISTERS_16(i) \
  R1TRT_REGISTERS_4(i), R1TRT_REGISTERS_4(i + 4), R1TRT_REGISTERS_4(i + 8), R1TRT_REGISTERS_4(i + 12)
#define R1TRT_REGISTERS_64(i) \
  R1TRT_REGISTERS_16(i), R1TRT_REGISTERS_16(i + 16), R1TRT_REGISTERS_16(i + 32), R1TRT_REGISTERS_16(i + 48)

// clang-format off: one line a row of registers.
#define R1TRT_NAMES_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define R1TRT_NAMES_128 R1TRT_NAMES_32 ", " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// Behind the accumulators: A, B, whether to add, the operands' signs, and which of them lie transposed.
#define R1TRT_SCORES(type) \
  "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n" \
  "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" R1TRT_NAMES_32 "}, %32, %33, p, 1, 1, 0, 0;\n}\n"
#define R1TRT_GIVEN_WEIGHTS(type) \
  "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n" \
  "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" R1TRT_NAMES_128 "}, %128, %129, p, 1, 1, 0, 1;\n}\n"
#define R1TRT_OWN_WEIGHTS(type) \
  "{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n" \
  "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" R1TRT_NAMES_128 "}, " \
  "{%128, %129, %130, %131}, %132, p, 1, 1, 1;\n}\n"
// clang-format on

// S = q k^T, or added to it: 64 rows, 64 keys, 16 of their elements.
template <class T>
__device__ __forceinline__ void multiplyScores(float (&d)[32], uint64_t q, uint64_t k, int more) {
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(R1TRT_SCORES("f16")
                 : R1TRT_REGISTERS_16(0), R1TRT_REGISTERS_16(16)
                 : "l"(q), "l"(k), "r"(more));
  } else {
    asm volatile(R1TRT_SCORES("bf16")
                 : R1TRT_REGISTERS_16(0), R1TRT_REGISTERS_16(16)
                 : "l"(q), "l"(k), "r"(more));
  }
}

// O += P v: 64 rows, 16 keys, 256 of the values' elements, which lie along the rows; P in shared memory.
template <class T>
__device__ __forceinline__ void addValues(float (&d)[128], uint64_t p, uint64_t v) {
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(R1TRT_GIVEN_WEIGHTS("f16")
                 : R1TRT_REGISTERS_64(0), R1TRT_REGISTERS_64(64)
                 : "l"(p), "l"(v), "r"(1));
  } else {
    asm volatile(R1TRT_GIVEN_WEIGHTS("bf16")
                 : R1TRT_REGISTERS_64(0), R1TRT_REGISTERS_64(64)
                 : "l"(p), "l"(v), "r"(1));
  }
}

// The same, P in registers.
template <class T>
__device__ __forceinline__ void addValues(float (&d)[128], uint32_t const (&p)[4], uint64_t v) {
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(R1TRT_OWN_WEIGHTS("f16")
                 : R1TRT_REGISTERS_64(0), R1TRT_REGISTERS_64(64)
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v), "r"(1));
  } else {
    asm volatile(R1TRT_OWN_WEIGHTS("bf16")
                 : R1TRT_REGISTERS_64(0), R1TRT_REGISTERS_64(64)
                 : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v), "r"(1));
  }
}

#undef R1TRT_OWN_WEIGHTS
#undef R1TRT_GIVEN_WEIGHTS
#undef R1TRT_SCORES
#undef R1TRT_NAMES_128
#undef R1TRT_NAMES_32
#undef R1TRT_REGISTERS_64
#undef R1TRT_REGISTERS_16
#undef R1TRT_REGISTERS_4

#endif

}  // namespace r1trt::kernels::hla::latent
