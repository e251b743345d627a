#include "simt_warpgroup.h"

#include <cmath>
#include <cstring>

#include "simt_state.h"
#include "simt_tensor_core.h"

namespace simt {
namespace {

constexpr int kProductBytes = 32;  // of a row of A or of B along K
constexpr int kMostK = 32, kMostColumns = 256, kRowsOfWarp = 16, kChunk = 16, kRowBytes = 128, kRows = 8;

// A matrix descriptor's fields; offsets without their unit of 16 bytes' bits.
struct Descriptor {
  uint32_t start, leading, stride;

  explicit Descriptor(uint64_t bits)
      : start(field(bits, 0)), leading(field(bits, 16)), stride(field(bits, 32)) {
    if (bits >> 62 != 1) fail("wgmma: a descriptor of another swizzle than 128 bytes");
    if ((bits >> 49 & 7) != 0) fail("wgmma: a descriptor with a base offset, which no kernel has");
  }
  static uint32_t field(uint64_t bits, int first) {
    return static_cast<uint32_t>(bits >> first & 0x3FFF) << 4;
  }
};

SIMT_UNSANITIZED float widened(Operand operand, unsigned char const* bytes) {
  if (operand == Operand::kE4m3) return Float8E4M3::widen(*bytes);
  uint32_t const bits = bytes[0] | static_cast<uint32_t>(bytes[1]) << 8;
  return operand == Operand::kBfloat16 ? BFloat16::widen(bits) : Float16::widen(bits);
}

SIMT_UNSANITIZED int sizeOf(Operand operand) {
  return operand == Operand::kE4m3 ? 1 : 2;
}

struct Chunk {
  uint64_t half[2];
};

// The one function that sanitizers see: reads of shared memory, by the lane that came last.
// NOTES: returned in registers: who reads as somebody else has no stack of his own.
Chunk loadChunk(uint32_t address) {
  char const* const from = sharedPointer(swizzled128(address));
  Chunk chunk;
  std::memcpy(&chunk.half[0], from, sizeof chunk.half[0]);
  std::memcpy(&chunk.half[1], from + sizeof chunk.half[0], sizeof chunk.half[1]);
  return chunk;
}

SIMT_UNSANITIZED void readChunk(unsigned char (&bytes)[kChunk], uint32_t address) {
  Chunk const chunk = loadChunk(address);
  std::memcpy(bytes, &chunk, kChunk);
}

// A row of 32 bytes along K.
SIMT_UNSANITIZED void readRow(Operand operand, Descriptor const& tile, int row, float* values) {
  uint32_t const address = tile.start + static_cast<uint32_t>(row / kRows) * tile.stride +
                           static_cast<uint32_t>(row % kRows * kRowBytes);
  int const size = sizeOf(operand);
  for (int first = 0; first < kProductBytes; first += kChunk) {
    unsigned char bytes[kChunk];
    readChunk(bytes, address + static_cast<uint32_t>(first));
    for (int i = 0; i < kChunk / size; ++i) values[first / size + i] = widened(operand, bytes + i * size);
  }
}

// Eight neighbours along N of one k; rows of 64 of them, more of those at the leading offset.
SIMT_UNSANITIZED void readColumns(Operand operand, Descriptor const& tile, int k, int column, float* values) {
  uint32_t const address = tile.start + static_cast<uint32_t>(column / 64) * tile.leading +
                           static_cast<uint32_t>(k / kRows) * tile.stride +
                           static_cast<uint32_t>(k % kRows * kRowBytes + column % 64 * 2);
  unsigned char bytes[kChunk];
  readChunk(bytes, address);
  for (int i = 0; i < kChunk / 2; ++i) values[i] = widened(operand, bytes + i * 2);
}

struct Tiles {
  alignas(64) float a[kRowsOfWarp][kMostK];
  alignas(64) float b[kMostK][kMostColumns];
};

SIMT_UNSANITIZED void readA(Product const& product, int warp, Tiles& tiles) {
  ProductCall const& call = product.call;
  if (call.a == nullptr) {
    Descriptor const tile(call.a_tile);
    for (int row = 0; row < kRowsOfWarp; ++row) {
      readRow(call.operand, tile, warp % 4 * kRowsOfWarp + row, tiles.a[row]);
    }
    return;
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int i = 0; i < 8; ++i) {
      int const row = lane / 4 + i / 2 % 2 * 8, k = lane % 4 * 2 + i % 2 + i / 4 * 8;
      uint32_t const bits = product.a[lane][i / 2] >> (16 * (i % 2)) & 0xFFFF;
      tiles.a[row][k] = call.operand == Operand::kBfloat16 ? BFloat16::widen(bits) : Float16::widen(bits);
    }
  }
}

SIMT_UNSANITIZED void readB(ProductCall const& call, Tiles& tiles) {
  Descriptor const tile(call.b_tile);
  int const depth = kProductBytes / sizeOf(call.operand);
  if (call.b_in_rows) {
    for (int k = 0; k < depth; ++k) {
      for (int n = 0; n < call.columns; n += 8) readColumns(call.operand, tile, k, n, &tiles.b[k][n]);
    }
    return;
  }
  for (int n = 0; n < call.columns; ++n) {
    float row[kMostK];
    readRow(call.operand, tile, n, row);
    for (int k = 0; k < depth; ++k) tiles.b[k][n] = row[k];
  }
}

SIMT_UNSANITIZED void addProduct(ProductCall const& call, Tiles const& tiles, Accumulator& sum) {
  alignas(64) static float d[kRowsOfWarp][kMostColumns];
  int const depth = kProductBytes / sizeOf(call.operand);
  for (int m = 0; m < kRowsOfWarp; ++m) {
    for (int first = 0; first < call.columns; first += 8) {
      float out[8] = {};
      for (int k = 0; k < depth; ++k) {
        for (int n = 0; n < 8; ++n) out[n] += tiles.a[m][k] * tiles.b[k][first + n];
      }
      for (int n = 0; n < 8; ++n) d[m][first + n] = out[n];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int i = 0; i < sum.registers; ++i) {
      float const value = d[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2];
      sum.value[lane][i] = call.accumulate ? sum.value[lane][i] + value : value;
    }
  }
}

struct Reading {
  WarpProducts& products;
  Product const& product;
  int warp;
  Tiles& tiles;
};

SIMT_UNSANITIZED void readOperands(Reading const& reading) {
  readA(reading.product, reading.warp, reading.tiles);
  readB(reading.product.call, reading.tiles);
  release(reading.products.tag);
}

SIMT_UNSANITIZED void readByProxy(void* argument) {
  acquire(state().proxy_tag);
  readOperands(*static_cast<Reading*>(argument));
}

SIMT_UNSANITIZED void execute(WarpProducts& products, Product& product, int warp) {
  static Tiles tiles;
  if (product.done) return;
  Reading reading{products, product, warp, tiles};
#ifdef SIMT_TSAN
  actAs(state().reader, readByProxy, &reading);
#endif
  readOperands(reading);
  addProduct(product.call, tiles, *product.sum);
  product.done = true;
}

SIMT_UNSANITIZED ProductCall& callOf(Thread* thread) {
  return *static_cast<ProductCall*>(thread->payload);
}

SIMT_UNSANITIZED Accumulator& newAccumulator(WarpProducts& products, Thread* const* lanes) {
  ProductCall const& call = callOf(lanes[0]);
  if (!products.fenced)
    fail("wgmma: no wgmma.fence between the last wait and a product into other registers");
  int index = 0;
  while (index < kMaxAccumulators && products.accumulator[index].d[0] != nullptr) ++index;
  if (index == kMaxAccumulators) fail("wgmma: products into too many registers for the host layer");
  Accumulator& sum = products.accumulator[index];
  sum.registers = call.columns / 2;
  sum.products = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    sum.d[lane] = callOf(lanes[lane]).d;
    for (int i = 0; i < sum.registers; ++i) {
      sum.value[lane][i] = sum.d[lane][i];
      sum.d[lane][i] = NAN;
    }
  }
  return sum;
}

SIMT_UNSANITIZED Accumulator& accumulatorOf(WarpProducts& products, Thread* const* lanes) {
  for (Accumulator& sum : products.accumulator) {
    if (sum.d[0] == nullptr || sum.d[0] != callOf(lanes[0]).d) continue;
    if (sum.registers != callOf(lanes[0]).columns / 2)
      fail("wgmma: one accumulator in products of two shapes");
    return sum;
  }
  return newAccumulator(products, lanes);
}

SIMT_UNSANITIZED void digest(WarpProducts& products, uint64_t value) {
  products.issued = (products.issued ^ value) * 0x100000001B3ULL;
}

SIMT_UNSANITIZED void issueLeader(Thread* const* lanes, unsigned /*mask*/) {
  int const warp = lanes[0]->warp;
  WarpProducts& products = state().products[warp];
  ProductCall const& call = callOf(lanes[0]);
  for (int lane = 1; lane < kWarpSize; ++lane) {
    ProductCall const& other = callOf(lanes[lane]);
    if (other.a_tile != call.a_tile || other.b_tile != call.b_tile || other.accumulate != call.accumulate ||
        other.columns != call.columns || other.b_in_rows != call.b_in_rows) {
      fail("wgmma: lanes of a warp with different descriptors");
    }
  }
  if (products.count == kMaxProducts) fail("wgmma: too many products under way for the host layer");
  Product& product = products.at(products.count++);
  product.call = call;
  product.sum = &accumulatorOf(products, lanes);
  ++product.sum->products;
  product.group = products.group;
  product.done = false;
  for (int lane = 0; lane < kWarpSize; ++lane) product.a[lane] = callOf(lanes[lane]).a;
  digest(products, call.a == nullptr ? call.a_tile : 0);
  digest(products, call.b_tile);
  digest(products, static_cast<uint64_t>(call.accumulate) << 32 | static_cast<uint64_t>(call.columns));
  // The other way round than copies land: late ones meet reads at issue, early ones reads at the wait.
  CopyLanding const landing = configuration().copy_landing;
  if (landing == CopyLanding::kLate || (landing == CopyLanding::kRandom && randomBelow(2) == 0)) {
    for (int i = 0; i < products.count; ++i) execute(products, products.at(i), warp);
  }
}

// The registers are the lanes' again when no product into them is left.
SIMT_UNSANITIZED void giveBack(Accumulator& sum) {
  if (--sum.products != 0) return;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int i = 0; i < sum.registers; ++i) sum.d[lane][i] = sum.value[lane][i];
  }
  sum.d[0] = nullptr;
}

SIMT_UNSANITIZED void waitLeader(Thread* const* lanes, unsigned /*mask*/) {
  WarpProducts& products = state().products[lanes[0]->warp];
  int const left = *static_cast<int*>(lanes[0]->payload);
  while (products.count != 0 && products.at(0).group < products.group - left) {
    execute(products, products.at(0), lanes[0]->warp);
    giveBack(*products.at(0).sum);
    ++products.first;
    --products.count;
  }
  products.fenced = false;
}

SIMT_UNSANITIZED void fenceLeader(Thread* const* lanes, unsigned /*mask*/) {
  state().products[lanes[0]->warp].fenced = true;
}

SIMT_UNSANITIZED void commitLeader(Thread* const* lanes, unsigned /*mask*/) {
  ++state().products[lanes[0]->warp].group;
}

}  // namespace

SIMT_UNSANITIZED void WarpProducts::reset() {
  first = count = group = 0;
  fenced = false;
  issued = 0;
  for (Accumulator& sum : accumulator) sum.d[0] = nullptr;
}

SIMT_UNSANITIZED void fenceStores() {
  release(state().proxy_tag);
}

SIMT_UNSANITIZED void fenceProducts() {
  collective(Op::kProduct, kFullMask, nullptr, fenceLeader);
}

SIMT_UNSANITIZED void issueProduct(ProductCall const& call) {
  ProductCall mine = call;
  collective(Op::kProduct, kFullMask, &mine, issueLeader);
}

SIMT_UNSANITIZED void commitProducts() {
  collective(Op::kProduct, kFullMask, nullptr, commitLeader);
}

SIMT_UNSANITIZED void waitProducts(int groups_left) {
  collective(Op::kProduct, kFullMask, &groups_left, waitLeader);
  acquire(state().products[self().warp].tag);
}

SIMT_UNSANITIZED void requireNoProducts(Thread const& thread) {
  if (state().products[thread.warp].count != 0) fail("a thread ended with products that it never waited for");
}

SIMT_UNSANITIZED bool sameProducts(WarpProducts const* products, int threads) {
  for (int warp = 0; warp < threads / kWarpSize; ++warp) {
    if (products[warp].issued != products[warp / 4 * 4].issued) return false;
  }
  return true;
}

}  // namespace simt
