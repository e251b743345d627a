// The instructions of hopper.cuh, on the host layer: the same names and parameters, one function each.
#pragma once

#include "simt.h"
#include "simt_bulk_copy.h"
#include "simt_phase.h"
#include "simt_warpgroup.h"

namespace r1trt::kernels::hopper {

inline uint32_t sharedAddress(void const* pointer) {
  return simt::sharedAddress(pointer);
}

inline void initBarrier(Barrier* barrier, uint32_t arrivals) {
  simt::initPhase(barrier, arrivals);
}
inline void fenceBarrierInit() {}
inline void arrive(Barrier* barrier) {
  simt::arriveAtPhase(barrier, 0);
}
inline void arriveExpecting(Barrier* barrier, uint32_t bytes) {
  simt::arriveAtPhase(barrier, bytes);
}
// NOTES: may suspend its thread, as the instruction may: fibers do not spin.
inline bool tryWait(Barrier* barrier, uint32_t parity) {
  simt::waitForPhase(barrier, parity);
  return true;
}

inline void prefetchMap(CUtensorMap const* /*map*/) {}
inline void loadTile(void* shared, CUtensorMap const* map, Barrier* full, int column, int row) {
  simt::bulkCopy(shared, map, full, {column, row, 0}, 2);
}
inline void loadBox(void* shared, CUtensorMap const* map, Barrier* full, int column, int row, int matrix) {
  simt::bulkCopy(shared, map, full, {column, row, matrix}, 3);
}

inline void fenceStores() {
  simt::fenceStores();
}
template <int kBarrier, int kCount>
void syncSome() {
  simt::namedBarrier(kBarrier, kCount, true);
}
template <int kCount>
void syncSome(int barrier) {
  simt::namedBarrier(barrier, kCount, true);
}
template <int kCount>
void arriveSome(int barrier) {
  simt::namedBarrier(barrier, kCount, false);
}

inline void fenceProducts() {
  simt::fenceProducts();
}
inline void commitProducts() {
  simt::commitProducts();
}
template <int kPending>
void waitProducts() {
  simt::waitProducts(kPending);
}
template <int kCount>
void holdRegisters(float (&)[kCount]) {}

template <class T>
constexpr simt::Operand kOperand =
    std::is_same_v<T, __half> ? simt::Operand::kFloat16 : simt::Operand::kBfloat16;

template <int kRegisters>
void multiplyTiles(simt::Operand operand, float (&d)[kRegisters], uint64_t a, uint64_t b, int accumulate) {
  simt::issueProduct({operand, 2 * kRegisters, d, nullptr, a, b, false, accumulate != 0});
}
inline void multiplyE4m3(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  multiplyTiles(simt::Operand::kE4m3, d, a, b, accumulate);
}
template <int kRegisters>
void multiplyBf16(float (&d)[kRegisters], uint64_t a, uint64_t b, int accumulate) {
  multiplyTiles(simt::Operand::kBfloat16, d, a, b, accumulate);
}
template <int kRegisters>
void multiplyF16(float (&d)[kRegisters], uint64_t a, uint64_t b, int accumulate) {
  multiplyTiles(simt::Operand::kFloat16, d, a, b, accumulate);
}
// A from four registers, or where they are null, by descriptor.
template <int kRegisters>
void multiplyValues(simt::Operand operand, float (&d)[kRegisters], uint32_t const* a, uint64_t a_tile,
                    uint64_t b, int accumulate) {
  simt::issueProduct({operand, 2 * kRegisters, d, a, a_tile, b, true, accumulate != 0});
}
template <int kRegisters>
void multiplyValuesBf16(float (&d)[kRegisters], uint32_t const (&a)[4], uint64_t b, int accumulate) {
  multiplyValues(simt::Operand::kBfloat16, d, a, 0, b, accumulate);
}
template <int kRegisters>
void multiplyValuesF16(float (&d)[kRegisters], uint32_t const (&a)[4], uint64_t b, int accumulate) {
  multiplyValues(simt::Operand::kFloat16, d, a, 0, b, accumulate);
}

template <int kRegisters>
void takeRegisters() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256, "as setmaxnreg takes them");
}
template <int kRegisters>
void giveRegisters() {
  takeRegisters<kRegisters>();
}

}  // namespace r1trt::kernels::hopper
