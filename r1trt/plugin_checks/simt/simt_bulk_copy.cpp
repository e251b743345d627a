#include "simt_bulk_copy.h"

#include <algorithm>
#include <cstring>

#include "simt_state.h"

namespace simt {
namespace {

constexpr int kChunk = 16;  // bytes that stay together under the swizzle
constexpr int kMostBox = 256, kMostRowBytes = 128;
constexpr uint64_t kMark = 0x7E45084D1A900000ULL;
constexpr int64_t kMostStride = int64_t{1} << 40;

int elementBytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    default:
      return 0;  // no kernel's
  }
}

bool good(TensorMap const& map) {
  bool result = reinterpret_cast<uintptr_t>(map.data) % 16 == 0 &&
                (!map.swizzled || map.rowBytes() <= kMostRowBytes) && map.rowBytes() % kChunk == 0;
  for (int i = 0; i < map.rank; ++i) {
    result = result && map.sizes[i] > 0 && map.sizes[i] <= int64_t{1} << 32 && map.box[i] > 0 &&
             map.box[i] <= kMostBox && (i == 0 || (map.strides[i] % 16 == 0 && map.strides[i] < kMostStride));
  }
  return result;
}

// What the driver's cuTensorMapEncodeTiled makes of the same arguments, for the maps that kernels have.
CUresult encodeTiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank, void* data,
                     cuuint64_t const* sizes, cuuint64_t const* strides, cuuint32_t const* box,
                     cuuint32_t const* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                     CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  TensorMap map{};
  map.mark = kMark;
  map.data = static_cast<char const*>(data);
  map.rank = static_cast<int>(rank);
  map.element_bytes = elementBytes(type);
  map.swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
  bool const known = rank >= 2 && rank <= kMostDimensions && map.element_bytes != 0 &&
                     interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
                     (map.swizzled || swizzle == CU_TENSOR_MAP_SWIZZLE_NONE) &&
                     fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  if (!known) return CUDA_ERROR_INVALID_VALUE;
  for (int i = 0; i < map.rank; ++i) {
    map.sizes[i] = static_cast<int64_t>(sizes[i]);
    map.strides[i] = i == 0 ? map.element_bytes : static_cast<int64_t>(strides[i - 1]);
    map.box[i] = static_cast<int>(box[i]);
    if (steps[i] != 1) return CUDA_ERROR_INVALID_VALUE;
  }
  for (int i = map.rank; i < kMostDimensions; ++i) map.sizes[i] = map.box[i] = 1;
  if (!good(map)) return CUDA_ERROR_INVALID_VALUE;
  std::memset(static_cast<void*>(out), 0, sizeof *out);
  std::memcpy(static_cast<void*>(out), &map, sizeof map);
  return CUDA_SUCCESS;
}

// One chunk of a row of the box. The one function that sanitizers see. `columns` and `size` are the map's.
void landChunk(char* target, char const* row, int64_t column, int64_t columns, int size) {
  int const elements = kChunk / size;
  if (row != nullptr && column >= 0 && column + elements <= columns) {
    std::memcpy(target, row + column * size, kChunk);
    return;
  }
  constexpr char kZeros[kChunk] = {};
  std::memcpy(target, kZeros, kChunk);  // sanitizers do not see a memset
  for (int i = 0; i < kChunk && row != nullptr; ++i) {
    int64_t const from = column + i / size;
    if (from >= 0 && from < columns) target[i] = row[from * size + i % size];
  }
}

SIMT_UNSANITIZED void landBox(BulkCopy& copy) {
  TensorMap const& map = copy.map;
  uint32_t const first = sharedAddress(copy.target);
  uint32_t offset = 0;
  for (int z = 0; z < map.box[2]; ++z) {
    for (int y = 0; y < map.box[1]; ++y) {
      int64_t const row = int64_t{copy.at[1]} + y, matrix = int64_t{copy.at[2]} + z;
      bool const inside = row >= 0 && row < map.sizes[1] && matrix >= 0 && matrix < map.sizes[2];
      char const* source = inside ? map.data + row * map.strides[1] + matrix * map.strides[2] : nullptr;
      for (int byte = 0; byte < map.rowBytes(); byte += kChunk, offset += kChunk) {
        uint32_t const address = map.swizzled ? swizzled128(first + offset) : first + offset;
        landChunk(sharedPointer(address), source, copy.at[0] + byte / map.element_bytes, map.sizes[0],
                  map.element_bytes);
      }
    }
  }
}

SIMT_UNSANITIZED void landAsAgent(void* argument) {
  auto& copy = *static_cast<BulkCopy*>(argument);
  acquire(copy.barrier->issue_tag);
  landBox(copy);
  release(copy.barrier->tag[copy.barrier->phase % 2]);
  release(state().proxy_tag);
}

SIMT_UNSANITIZED void land(BulkCopy& copy) {
  State& g = state();
  actAs(g.team->agent, landAsAgent, &copy);
  copy.under_way = false;
  --g.bulk.count;
  completeBytes(*copy.barrier, int64_t{copy.map.rowBytes()} * copy.map.box[1] * copy.map.box[2]);
}

// Which one lands next: the first, the last, or any.
SIMT_UNSANITIZED BulkCopy& pick() {
  BulkCopies& all = state().bulk;
  long const seed = configuration().seed;
  unsigned skipped = seed > 0 ? randomBelow(static_cast<unsigned>(all.count)) : 0;
  BulkCopy* found = nullptr;
  for (BulkCopy& copy : all.copy) {
    if (!copy.under_way) continue;
    if (seed > 0 && skipped-- == 0) return copy;
    if (found == nullptr || (copy.number > found->number) == (seed < 0)) found = &copy;
  }
  return *found;
}

}  // namespace

SIMT_UNSANITIZED uint32_t sharedAddress(void const* pointer) {
  State const& g = state();
  auto const offset = static_cast<char const*>(pointer) - g.team->arena;
  if (offset < 0 || static_cast<size_t>(offset) > kArenaSize) fail("an address outside of shared memory");
  return static_cast<uint32_t>(offset);
}

SIMT_UNSANITIZED char* sharedPointer(uint32_t address) {
  State const& g = state();
  if (address >= g.arena_used) fail("an asynchronous access outside of shared memory");
  return g.team->arena + address;
}

SIMT_UNSANITIZED void BulkCopies::reset() {
  count = issued = 0;
  for (BulkCopy& one : copy) one.under_way = false;
}

SIMT_UNSANITIZED void bulkCopy(void* target, CUtensorMap const* map, uint64_t* barrier,
                               int const (&at)[kMostDimensions], int rank) {
  BulkCopies& all = state().bulk;
  int slot = 0;
  while (slot < kMaxBulkCopies && all.copy[slot].under_way) ++slot;
  if (slot == kMaxBulkCopies) fail("cp.async.bulk.tensor: too many copies under way for the host layer");
  BulkCopy& copy = all.copy[slot];
  std::memcpy(&copy.map, static_cast<void const*>(map), sizeof copy.map);
  if (copy.map.mark != kMark) fail("cp.async.bulk.tensor: no tensor map of the encoder's");
  if (copy.map.rank != rank) fail("cp.async.bulk.tensor: coordinates of another rank than the map's");
  if (sharedAddress(target) % 128 != 0) fail("cp.async.bulk.tensor: its target is not 128-byte aligned");
  copy.target = static_cast<char*>(target);
  copy.barrier = &phaseOf(barrier);
  for (int i = 0; i < kMostDimensions; ++i) copy.at[i] = at[i];
  release(copy.barrier->issue_tag);
  copy.under_way = true;
  copy.number = all.issued++;
  ++all.count;
  CopyLanding const landing = configuration().copy_landing;
  if (landing == CopyLanding::kEager || (landing == CopyLanding::kRandom && randomBelow(2) == 0)) {
    land(copy);
  }
}

SIMT_UNSANITIZED void landBulkCopies() {
  State& g = state();
  bool const random = configuration().copy_landing == CopyLanding::kRandom;
  if (random && g.bulk.count != 0 && randomBelow(8) == 0) land(pick());
  while (g.ready_begin == g.ready_end && g.bulk.count != 0) land(pick());
}

}  // namespace simt

// In the CUDA runtime's place: the one function of the driver's that launches ask for.
extern "C" cudaError_t cudaGetDriverEntryPointByVersion(char const* name, void** function, unsigned,
                                                        unsigned long long,
                                                        cudaDriverEntryPointQueryResult* result) {
  bool const known = std::strcmp(name, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&simt::encodeTiled) : nullptr;
  *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
