// wgmma: products of a warpgroup, by the PTX manual (9.7.15). Operands in shared memory come by descriptors,
// which are decoded here, bit by bit, and not by the functions that make them.
//
// Each warp multiplies its own 16 of the 64 rows, whenever it comes. Operands are read at issue (where copies
// land late), at the wait (where they land at once), or at random; accumulators are NaN until the wait. Sums
// are FP32 in the order of k; hardware adds E4M3 in fewer bits.
//
// ThreadSanitizer sees operands read twice: by the warp, which barriers order, and by somebody who sees what
// bulk copies wrote, and of threads' writes those in front of a fence.proxy.async.
#pragma once

#include <cstdint>

#include "simt_block.h"

namespace simt {

enum class Operand { kBfloat16, kFloat16, kE4m3 };

// One wgmma.mma_async as a lane issues it.
struct ProductCall {
  Operand operand;
  int columns;        // N
  float* d;           // columns / 2 registers
  uint32_t const* a;  // four registers, or null: then by descriptor
  uint64_t a_tile, b_tile;
  bool b_in_rows;  // of K; else of N
  bool accumulate;
};

constexpr int kMaxProducts = 64, kMaxAccumulators = 4, kMaxRegisters = 128;

struct Accumulator {
  float* d[kWarpSize];  // null: free
  int registers, products;
  float value[kWarpSize][kMaxRegisters];
};

struct Product {
  ProductCall call;
  uint32_t const* a[kWarpSize];
  Accumulator* sum;
  int group;
  bool done;
};

// What a warp has issued and not waited for.
struct WarpProducts {
  int first, count, group;
  bool fenced;
  uint64_t issued;  // a digest of all, for the comparison with the other warps of the warpgroup
  char tag[8];
  Product product[kMaxProducts];
  Accumulator accumulator[kMaxAccumulators];

  Product& at(int index) { return product[(first + index) % kMaxProducts]; }
  void reset();
};

void fenceStores();
void fenceProducts();
void issueProduct(ProductCall const& call);
void commitProducts();
void waitProducts(int groups_left);

void requireNoProducts(Thread const& thread);
bool sameProducts(WarpProducts const* products, int threads);

}  // namespace simt
