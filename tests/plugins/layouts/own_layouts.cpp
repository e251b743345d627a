// What the kernels' own functions make of Hopper's layouts: each line a name and whole numbers.
#include <cstdio>
#include <vector>

#include "common/platform.cuh"

// NOTES: defined behind what the host layer says of it. Nothing here executes Hopper's instructions.
#define cudaGetDriverEntryPointByVersion ownEntryPoint

#include <cuda.h>

alignas(1024) static char memory[1 << 18];
static int swizzle, box_bytes;

// In the place of the driver's encoder: keeps what it is asked for.
static CUresult encode(CUtensorMap*, CUtensorMapDataType type, cuuint32_t, void*, cuuint64_t const*,
                       cuuint64_t const*, cuuint32_t const* box, cuuint32_t const*, CUtensorMapInterleave,
                       CUtensorMapSwizzle asked, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  swizzle = asked;
  box_bytes = static_cast<int>(box[0]) * (type == CU_TENSOR_MAP_DATA_TYPE_UINT8 ? 1 : 2);
  return CUDA_SUCCESS;
}
static cudaError_t ownEntryPoint(char const*, void** function, unsigned, unsigned long long,
                                 cudaDriverEntryPointQueryResult* found) {
  *function = reinterpret_cast<void*>(&encode);
  *found = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

#include "dynamic_moe/hopper_tile.cuh"
#include "hla_attention/hopper_latent_tile.cuh"
#include "hla_attention/hopper_launch.cuh"
#include "hla_attention/hopper_output.cuh"

using namespace r1trt::kernels;

namespace {

constexpr size_t kSharedBytes = 64 << 10;
constexpr int kBlock = 384, kConsumerThreads = 256, kNothing = -1;
using Table = std::vector<int>;

void print(char const* name, Table const& table) {
  std::printf("%s", name);
  for (int value : table) std::printf(" %d", value);
  std::printf("\n");
}

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), Arguments... arguments) {
  if (launch(LaunchShape{"layouts", dim3(1), kBlock, kSharedBytes}, nullptr, kernel, arguments...) !=
      cudaSuccess) {
    std::abort();
  }
}

int consumer() {
  return static_cast<int>(threadIdx.x) - hopper::kWarpgroup;
}

// ---- addresses

using Words = std::vector<uint64_t>;
constexpr int kSteps = 8, kTileBytes = 128 * hopper::kSwizzleBytes;

// Of two groups of 128 bytes by 128 rows, at address 0: steps of 32 bytes along both, of rows from `row` on.
void tileDescriptors(Words* found, int row) {
  if (threadIdx.x != 0) return;
  char* const base = simt::dynamicShared();
  char* const tile = base + (-hopper::sharedAddress(base) & (hopper::kTileAlignment - 1));
  uint64_t const first = hopper::sharedAddress(tile) >> 4;
  for (int step = 0; step < kSteps; ++step) {
    char const* const rows = tile + step / 4 * kTileBytes + row * hopper::kSwizzleBytes;
    found->push_back(hopper::tileDescriptor(rows, step % 4 * 32) - first);
  }
}

// The same tile with N along its rows: steps of 16 rows.
void rowsDescriptors(Words* found, int /*row*/) {
  if (threadIdx.x != 0) return;
  char* const base = simt::dynamicShared();
  char* const tile = base + (-hopper::sharedAddress(base) & (hopper::kTileAlignment - 1));
  uint64_t const first = hopper::sharedAddress(tile) >> 4;
  for (int step = 0; step < kSteps; ++step) {
    found->push_back(hopper::rowsDescriptor(tile, step * 16, hla::prefill::kGroupBytes) - first);
  }
}

void printDescriptors(char const* name, void (*kernel)(Words*, int), int row, size_t steps) {
  Words found;
  run(kernel, &found, row);
  found.resize(steps);
  std::printf("%s", name);
  for (uint64_t value : found) std::printf(" %llu", static_cast<unsigned long long>(value));
  std::printf("\n");
}

// What the host layer's TMA makes of a tile: bytes from its begin, of the elements of [rows, K] or, with
// kAlongRows, [N, rows].
template <int kSize, bool kAlongRows>
void printBytes(char const* name) {
  Table table;
  for (int i = 0; i < 128; ++i) {
    for (int j = 0; j < 128; ++j) {
      int const row = kAlongRows ? j : i, byte = (kAlongRows ? i : j) * kSize;
      uint32_t const place =
          static_cast<uint32_t>(row * hopper::kSwizzleBytes + byte % hopper::kSwizzleBytes);
      table.push_back(byte / hopper::kSwizzleBytes * kTileBytes + static_cast<int>(simt::swizzled128(place)));
    }
  }
  print(name, table);
}

using Tile128 = hla::prefill::TileOf<__half, 128, 128, 2, 2>;
using Tile64 = hla::prefill::TileOf<__half, 64, 64, 2, 2>;

void printMaps() {
  static char data[256];
  CUtensorMap map;
  hla::Attention a{};
  a.params.batch = 1, a.params.seq = 128, a.params.heads = a.params.kv_heads = 1, a.slots = 128;
  a.params.q = data, a.keys.data = data, a.values.data = data;
  (void)hla::encodeMatrices<Tile128>(a, hla::prefill::kKeys, hla::prefill::kGroupColumns, map, map, map);
  print("map_16bit", {swizzle, box_bytes});
  using E4m3 = moe::Float8<__half>;
  (void)hopper::encodeTensorMap(
      {data, E4m3::kMapType, E4m3::kSize, 128, 128, 128, hopper::kSwizzleBytes / E4m3::kSize}, map);
  print("map_8bit", {swizzle, box_bytes});
}

// ---- sums of scores: the column of each of a lane's registers, and its row

void prefillScores(int* columns, int* rows) {
  using namespace hla::prefill;
  Lane const lane = laneOf();
  if (consumer() < 0) return;
  for (int index = 0; index < 2 * kKeys; ++index) {
    int const row = index / kKeys, key = index % kKeys, first = consumer() * hla::prefill::kScores;
    float s[hla::prefill::kScores] = {};
    uint32_t seen[2][hla::prefill::kWords] = {};
    seen[row][key / 32] = 1U << key % 32;
    hideUnseen(s, seen);
    for (int i = 0; i < hla::prefill::kScores; ++i) {
      if (s[i] == 0.0F) columns[first + i] = key, rows[first + i] = lane.row + 8 * row;
    }
  }
}

void latentScores(int* columns, int* rows) {
  using namespace hla::latent;
  if (consumer() < 0) return;
  hla::Attention a{};
  a.params.heads = 1, a.slots = kKeys;
  Work work{};
  Place place(work, a);
  for (int index = 2 * kKeys - 1; index >= 0; --index) {
    int const row = index / kKeys, last = index % kKeys, first = consumer() * hla::latent::kScores;
    float s[hla::latent::kScores] = {};
    place.last[row] = last, place.last[1 - row] = kNothing;
    hideUnseen(work, place, 0, s);
    for (int i = 0; i < hla::latent::kScores; ++i) {
      if (s[i] == 0.0F) columns[first + i] = last, rows[first + i] = place.row + 8 * row;
    }
  }
}

template <int kCount>
void printScores(char const* name, void (*kernel)(int*, int*), int threads) {
  Table columns(kConsumerThreads * kCount, kNothing), rows(kConsumerThreads * kCount, kNothing), places;
  run(kernel, columns.data(), rows.data());
  for (int i = 0; i < threads * kCount; ++i) {
    places.push_back(rows[i]);
    places.push_back(columns[i]);
  }
  print(name, places);
}

// ---- weights: which score each half of each register of the other operand is

void packedWeights(int* scores) {
  if (consumer() < 0) return;
  constexpr int kCount = hla::prefill::kScores;
  float s[kCount];
  for (int i = 0; i < kCount; ++i) s[i] = static_cast<float>(i);
  uint32_t p[kCount / 8][4];
  hla::packWeights<__half>(s, p);
  for (int i = 0; i < kCount; ++i) {
    uint16_t const bits = static_cast<uint16_t>(p[i / 8][i % 8 / 2] >> i % 2 * 16);
    __half value;
    std::memcpy(static_cast<void*>(&value), &bits, sizeof value);
    scores[consumer() * kCount + i] = static_cast<int>(__half2float(value));
  }
}

// Thread and register, as the two numbers of a word's halves cannot both be: one after the other.
struct Id {
  bool of_thread;
  float operator()(int i) const { return static_cast<float>(of_thread ? consumer() : i); }
};

Table numbers(void const* halves, int count) {
  Table table;
  for (int i = 0; i < count; ++i) {
    table.push_back(static_cast<int>(__half2float(static_cast<__half const*>(halves)[i])));
  }
  return table;
}

// By one warpgroup, whose weights they are: the tile's bytes.
void givenWeights(hla::latent::Shared* shared, Id id) {
  using namespace hla::latent;
  if (consumer() < 0 || consumer() >= hopper::kWarpgroup) return;
  hla::Attention a{};
  a.params.heads = 1;
  Work work{};
  Sums sums;
  for (int i = 0; i < hla::latent::kScores; ++i) sums.s[i] = id(i);
  hla::packWeights<__half>(sums.s, sums.p);
  storeWeights(*shared, Place(work, a), sums);
}

// ---- results

template <class Shape>
void products(__half* out, Id id) {
  if (consumer() < 0) return;
  moe::Problem p{};
  p.n = Shape::kColumns, p.out = out;
  moe::Part<Shape> const part{consumer() / hopper::kWarpgroup};
  float sum[Shape::kRegisters];
  for (int i = 0; i < Shape::kRegisters; ++i) sum[i] = id(i);
  moe::writePart<Shape>(p, part, {0, 0, 0, Shape::kRows, 0}, part.rowOfLane(consumer()), sum);
}

template <class Tile>
void outputs(__half* out, Id id) {
  using namespace hla::prefill;
  Lane const lane = laneOf();
  if (consumer() < 0) return;
  hla::prefill::Sums<Tile> sums;
  for (int i = 0; i < Tile::kV / 2; ++i) sums.o[i] = id(i);
  sums.softmax.l[0] = sums.softmax.l[1] = 1.0F;
  Target<__half> const targets[2] = {{out + lane.row * Tile::kV}, {out + (lane.row + 8) * Tile::kV}};
  storeRows<Tile>(sums, targets, [](float lam) { return Share{lam, false}; });
}

void latentOutputs(__half* out, Id id) {
  using namespace hla::latent;
  if (consumer() < 0) return;
  hla::Attention a{};
  a.params.heads = 1, a.params.y = out, a.splits = 1;
  Work work{};
  work.rows = hla::latent::kRows;
  Sums sums;
  for (int i = 0; i < kOutputs; ++i) sums.o[i] = id(i);
  sums.softmax.l[0] = sums.softmax.l[1] = 1.0F;
  store<__half>(a, work, Place(work, a), sums);
}

// The thread and the register that each element of a result comes from.
template <class Target>
void printOrigins(char const* name, void (*kernel)(Target*, Id), Target* target, void const* halves,
                  int count) {
  Table origins(2 * count);
  for (bool const of_thread : {true, false}) {
    run(kernel, target, Id{of_thread});
    Table const found = numbers(halves, count);
    for (int i = 0; i < count; ++i) origins[2 * i + (of_thread ? 0 : 1)] = found[i];
  }
  print(name, origins);
}

void printResult(char const* name, void (*kernel)(__half*, Id), int count) {
  std::vector<__half> out(count);
  printOrigins(name, kernel, out.data(), out.data(), count);
}

}  // namespace

int main() {
  for (int group = 0; group < 2; ++group) {
    printDescriptors(group == 0 ? "a_16bit_0" : "a_16bit_1", &tileDescriptors, group * 64, kSteps);
    printDescriptors(group == 0 ? "a_8bit_0" : "a_8bit_1", &tileDescriptors, group * 64, kSteps / 2);
  }
  printDescriptors("b_16bit", &tileDescriptors, 0, kSteps);
  printDescriptors("b_8bit", &tileDescriptors, 0, kSteps / 2);
  printDescriptors("b_values", &rowsDescriptors, 0, kSteps);
  printBytes<2, false>("bytes_16bit");
  printBytes<1, false>("bytes_8bit");
  printBytes<2, true>("bytes_values");
  printMaps();
  printScores<hla::prefill::kScores>("sums_128_below", &prefillScores, kConsumerThreads);
  printScores<hla::latent::kScores>("sums_64", &latentScores, hopper::kWarpgroup);
  Table scores(kConsumerThreads * hla::prefill::kScores);
  run(&packedWeights, scores.data());
  print("packed", scores);
  auto* const shared = reinterpret_cast<hla::latent::Shared*>(memory);
  printOrigins("given", &givenWeights, shared, shared->p, hla::latent::kRows * hla::latent::kKeys);
  printResult("products_128_below", &products<moe::TileOf<moe::Float8<__half>, 128, 1, 6>>, 128 * 128);
  printResult("products_128_beside", &products<moe::TileOf<moe::Float8<__half>, 128, 2, 5>>, 64 * 256);
  printResult("products_256_below", &products<moe::TileOf<moe::Float16, 256, 1, 4>>, 128 * 256);
  printResult("outputs_128", &outputs<Tile128>, 128 * 128);
  printResult("outputs_64", &outputs<Tile64>, 128 * 64);
  printResult("outputs_512", &latentOutputs, 64 * 512);
}
