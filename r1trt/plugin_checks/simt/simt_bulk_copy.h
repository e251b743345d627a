// Tensor maps, and the copies of boxes (TMA, cp.async.bulk.tensor) to shared memory that they describe: row
// behind row, with the 128-byte swizzle or without, zeros outside of the tensor.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "simt_phase.h"

namespace simt {

constexpr int kMaxBulkCopies = 64, kMostDimensions = 3;

// What the host layer writes into a CUtensorMap; the innermost dimension first.
struct TensorMap {
  uint64_t mark;
  char const* data;
  int64_t sizes[kMostDimensions], strides[kMostDimensions];  // strides in bytes
  int box[kMostDimensions];
  int rank, element_bytes;
  bool swizzled;

  int rowBytes() const { return box[0] * element_bytes; }
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap), "the map is opaque, not larger");

struct BulkCopy {
  TensorMap map;
  char* target;
  PhaseBarrier* barrier;
  int at[kMostDimensions];
  int number;  // in the order of issue
  bool under_way;
};

struct BulkCopies {
  int count, issued;
  BulkCopy copy[kMaxBulkCopies];

  void reset();
};

// As the 128-byte swizzle stores it: bits 4 to 6 of an address in shared memory, by bits 7 to 9.
constexpr uint32_t swizzled128(uint32_t address) {
  return address ^ (address >> 7 & 7) << 4;
}

// An address in the block's shared memory, as PTX counts it; and back.
uint32_t sharedAddress(void const* pointer);
char* sharedPointer(uint32_t address);

void bulkCopy(void* target, CUtensorMap const* map, uint64_t* barrier, int const (&at)[kMostDimensions],
              int rank);
// At each turn of a thread: those that land now, and where no thread can go on, as many as it takes.
void landBulkCopies();

}  // namespace simt
