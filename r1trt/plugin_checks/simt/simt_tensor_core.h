// ldmatrix and mma.sync by the fragment layouts of the PTX manual.
//
// Products are exact and summed in FP32 in the order of k. Hardware's own order and rounding differ, for E4M3
// by more than FP32's: tests compare with tolerances.
#pragma once

#include <cmath>
#include <cstring>

#include "simt_block.h"

namespace simt {

struct LdmatrixArgument {
  void const* row;
  void const* rows[kWarpSize];
};

SIMT_UNSANITIZED inline void ldmatrixLeader(Thread* const* lanes, unsigned /*mask*/) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    auto& mine = *static_cast<LdmatrixArgument*>(lanes[lane]->payload);
    for (int i = 0; i < kWarpSize; ++i) {
      mine.rows[i] = static_cast<LdmatrixArgument*>(lanes[i]->payload)->row;
    }
  }
}

// Addresses are exchanged, and every lane then reads its own elements: the sanitizers see who reads what.
template <int kMatrices, bool kTransposed>
void ldmatrix(uint32_t (&registers)[kMatrices], void const* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix: a row is not 16-byte aligned");
  LdmatrixArgument argument;
  argument.row = row;
  collective(Op::kLdmatrix, kFullMask, &argument, ldmatrixLeader);
  int group = self().lane / 4, pair = self().lane % 4 * 2;
  for (int i = 0; i < kMatrices; ++i) {
    uint16_t element[2];
    for (int j = 0; j < 2; ++j) {
      int r = kTransposed ? pair + j : group, c = kTransposed ? group : pair + j;
      std::memcpy(&element[j], static_cast<uint16_t const*>(argument.rows[8 * i + r]) + c, sizeof element[j]);
    }
    registers[i] = element[0] | static_cast<uint32_t>(element[1]) << 16;
  }
}

struct MmaArgument {
  float* d;
  uint32_t const *a, *b;
  float const* c;
};

inline MmaArgument& mmaOf(Thread* thread) {
  return *static_cast<MmaArgument*>(thread->payload);
}

struct BFloat16 {
  static constexpr int kBits = 16;
  static float widen(uint32_t bits) {
    bits <<= 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};

// All values of a format, computed once.
template <int kBits, int kExponentBits, bool kInfinities>
struct ValueTable {
  float value[1 << kBits];

  ValueTable() {
    constexpr int kMantissaBits = kBits - 1 - kExponentBits, kBias = (1 << (kExponentBits - 1)) - 1;
    constexpr int kLargest = (1 << kExponentBits) - 1, kMantissas = 1 << kMantissaBits;
    for (int bits = 0; bits < 1 << kBits; ++bits) {
      int exponent = bits >> kMantissaBits & kLargest, mantissa = bits & (kMantissas - 1);
      float magnitude = std::ldexp(static_cast<float>(exponent != 0 ? kMantissas + mantissa : mantissa),
                                   (exponent != 0 ? exponent : 1) - kBias - kMantissaBits);
      if (kInfinities && exponent == kLargest) magnitude = mantissa != 0 ? NAN : INFINITY;
      if (!kInfinities && exponent == kLargest && mantissa == kMantissas - 1) magnitude = NAN;
      value[bits] = (bits >> (kBits - 1)) != 0 ? -magnitude : magnitude;
    }
  }
};

inline ValueTable<16, 5, true> const kFloat16Values;
inline ValueTable<8, 4, false> const kFloat8E4M3Values;

struct Float16 {
  static constexpr int kBits = 16;
  static float widen(uint32_t bits) { return kFloat16Values.value[bits]; }
};

struct Float8E4M3 {
  static constexpr int kBits = 8;
  static float widen(uint32_t bits) { return kFloat8E4M3Values.value[bits]; }
};

// D[16, 8] = A[16, kK] B[8, kK]^T + C; a register holds `kPack` neighbours along k.
template <class Element, int kK>
SIMT_UNSANITIZED void mmaLeader(Thread* const* lanes, unsigned /*mask*/) {
  constexpr int kPack = 32 / Element::kBits;
  constexpr uint32_t kElementMask = (1U << Element::kBits) - 1;
  alignas(64) float a[16][kK];
  alignas(64) float b[kK][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    MmaArgument const& argument = mmaOf(lanes[lane]);
    int group = lane / 4, in_group = lane % 4;
    for (int i = 0; i < kPack; ++i) {
      int shift = i * Element::kBits, k = in_group * kPack + i;
      for (int r = 0; r < 4; ++r) {
        a[group + r % 2 * 8][k + r / 2 * (kK / 2)] = Element::widen(argument.a[r] >> shift & kElementMask);
      }
      for (int r = 0; r < 2; ++r) {
        b[k + r * (kK / 2)][group] = Element::widen(argument.b[r] >> shift & kElementMask);
      }
    }
  }
  alignas(64) float d[16][8] = {};
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < kK; ++k) {
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    MmaArgument const& argument = mmaOf(lanes[lane]);
    for (int i = 0; i < 4; ++i) {
      argument.d[i] = argument.c[i] + d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
  }
}

template <class Element, int kK>
void mma(float (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2], float const (&c)[4]) {
  float out[4];
  MmaArgument argument{out, a, b, c};
  collective(Op::kMma, kFullMask, &argument, mmaLeader<Element, kK>);
  for (int i = 0; i < 4; ++i) d[i] = out[i];
}

}  // namespace simt
