// What Hopper's kernels of prefill have in common on the host: tensor maps, and a kernel by element type and
// head size.
#pragma once

#include <type_traits>

#include "../common/tensor_map.h"
#include "stages.cuh"

namespace r1trt::kernels::hla {

template <class T>
constexpr CUtensorMapDataType kMapType =
    std::is_same_v<T, __half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;

// Queries, keys and values as matrices of heads' rows: heads beside one another in a row, or with a cache
// keys and values of each in rows of its own. A box has `box_rows` of `box_columns`.
template <class Tile>
cudaError_t encodeMatrices(Attention const& a, int box_rows, int box_columns, CUtensorMap& queries,
                           CUtensorMap& keys, CUtensorMap& values) {
  HlaAttentionParams const& p = a.params;
  bool const cached = p.key_cache != nullptr;
  int64_t const fresh = static_cast<int64_t>(p.batch) * p.seq;
  int64_t const rows = cached ? p.batch * p.kv_heads * a.slots : fresh;
  int64_t const beside = cached ? 1 : p.kv_heads;
  auto encode = [&](void const* data, int64_t count, int64_t columns, CUtensorMap& map) {
    constexpr auto kType = kMapType<typename Tile::T>;
    return hopper::encodeTensorMap({data, kType, 2, count, columns, box_rows, box_columns}, map);
  };
  cudaError_t error = encode(p.q, fresh, static_cast<int64_t>(p.heads) * Tile::kQk, queries);
  if (error == cudaSuccess) error = encode(a.keys.data, rows, beside * Tile::kQk, keys);
  return error == cudaSuccess ? encode(a.values.data, rows, beside * Tile::kV, values) : error;
}

// Launch<T, dqk, dv>::run(a, stream) of the call's element type and head size.
template <template <class, int, int> class Launch, class T>
cudaError_t launchBySize(Attention const& a, cudaStream_t stream) {
  if (a.params.qk_head_dim == 64) return Launch<T, 64, 64>::run(a, stream);
  if (a.params.qk_head_dim == 128) return Launch<T, 128, 128>::run(a, stream);
  return Launch<T, 192, 128>::run(a, stream);
}
template <template <class, int, int> class Launch>
cudaError_t launchByType(Attention const& a, cudaStream_t stream) {
  return a.params.data_type == DataType::kBFloat16 ? launchBySize<Launch, __nv_bfloat16>(a, stream)
                                                   : launchBySize<Launch, __half>(a, stream);
}

}  // namespace r1trt::kernels::hla
