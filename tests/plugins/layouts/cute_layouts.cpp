// What CuTe says of Hopper's layouts: each line a name and whole numbers.
#include <cstdint>
#include <cstdio>

// Addresses of shared memory are those in `memory`.
#define CUTE_CVTA_GENERIC_TO_SHARED_ACTIVATED 1
inline uint64_t __cvta_generic_to_shared(void const* pointer);

#include <cute/atom/copy_traits_sm90_tma_swizzle.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>

using namespace cute;

alignas(1024) static char memory[1 << 17];

inline uint64_t __cvta_generic_to_shared(void const* pointer) {
  return static_cast<uint64_t>(static_cast<char const*>(pointer) - memory);
}

// Rows of K, groups of 128 bytes one behind the other.
template <class T, int kRows, int kK>
auto rowsOfK() {
  return tile_to_shape(GMMA::Layout_K_SW128_Atom<T>{}, make_shape(Int<kRows>{}, Int<kK>{}));
}

// [N, K] whose rows in memory are those of N: groups of 128 bytes, each with all of K, one behind the other.
template <class T, int kColumns, int kK>
auto rowsOfN() {
  return tile_to_shape(GMMA::Layout_MN_SW128_Atom<T>{}, make_shape(Int<kColumns>{}, Int<kK>{}),
                       Step<_2, _1>{});
}

template <class T, class Layout>
auto shared(Layout const& layout) {
  return make_tensor(make_smem_ptr(reinterpret_cast<T*>(memory)), layout);
}

// Bytes from the tile's begin, of each row's elements.
template <class T, class Layout>
void printBytes(char const* name, Layout const& layout) {
  auto const offsets = as_position_independent_swizzle_layout(layout);
  std::printf("%s", name);
  for (int row = 0; row < size<0>(layout); ++row) {
    for (int k = 0; k < size<1>(layout); ++k) {
      std::printf(" %d", static_cast<int>(offsets(row, k) * sizeof(T)));
    }
  }
  std::printf("\n");
}

// Of a warpgroup's fragment: by step along K.
template <class Fragment>
void printDescriptors(char const* name, Fragment const& fragment) {
  std::printf("%s", name);
  for (int k = 0; k < size<2>(fragment); ++k) {
    GmmaDescriptor const descriptor = fragment(0, 0, k);
    std::printf(" %llu", static_cast<unsigned long long>(descriptor.desc_));
  }
  std::printf("\n");
}

// The place of each value of each thread.
template <class Partition>
void printPlaces(char const* name, int threads, Partition const& partition) {
  std::printf("%s", name);
  for (int thread = 0; thread < threads; ++thread) {
    auto const places = partition(thread);
    for (int i = 0; i < size(places); ++i) {
      std::printf(" %d %d", static_cast<int>(get<0>(places(i))), static_cast<int>(get<1>(places(i))));
    }
  }
  std::printf("\n");
}

template <class Atom, class Groups>
void printSums(char const* name, Groups groups) {
  auto const mma = make_tiled_mma(Atom{}, groups);
  auto const tile = make_identity_tensor(make_shape(tile_size<0>(mma), tile_size<1>(mma)));
  printPlaces(name, size(mma), [&](int thread) { return mma.get_slice(thread).partition_C(tile); });
}

int main() {
  using K16 = bfloat16_t;
  using K8 = float_e4m3_t;
  constexpr auto kK = GMMA::Major::K, kMN = GMMA::Major::MN;
  using Below = Layout<Shape<_2, _1, _1>>;
  using Beside = Layout<Shape<_1, _2, _1>>;
  using One = Layout<Shape<_1, _1, _1>>;
  using Scores = SM90_64x128x16_F32BF16BF16_SS<kK, kK>;
  using Values = SM90_64x128x16_F32BF16BF16_RS<kK, kMN>;
  using E4m3 = SM90_64x128x32_F32E4M3E4M3_SS_TN<>;

  printBytes<K16>("bytes_16bit", rowsOfK<K16, 128, 128>());
  printBytes<K8>("bytes_8bit", rowsOfK<K8, 128, 128>());
  printBytes<K16>("bytes_values", rowsOfN<K16, 128, 128>());

  auto const scores = make_tiled_mma(Scores{}, Below{});
  auto const e4m3 = make_tiled_mma(E4m3{}, Below{});
  auto const values = make_tiled_mma(Values{}, Below{});
  auto const rows16 = shared<K16>(rowsOfK<K16, 128, 128>());
  auto const rows8 = shared<K8>(rowsOfK<K8, 128, 128>());
  auto const rowsn = shared<K16>(rowsOfN<K16, 128, 128>());
  for (int group = 0; group < 2; ++group) {
    auto const own16 = scores.get_slice(group * 128);
    auto const own8 = e4m3.get_slice(group * 128);
    char name[32];
    std::snprintf(name, sizeof name, "a_16bit_%d", group);
    printDescriptors(name, own16.make_fragment_A(own16.partition_A(rows16)));
    std::snprintf(name, sizeof name, "a_8bit_%d", group);
    printDescriptors(name, own8.make_fragment_A(own8.partition_A(rows8)));
  }
  auto const any16 = scores.get_slice(0);
  auto const any8 = e4m3.get_slice(0);
  auto const anyn = values.get_slice(0);
  printDescriptors("b_16bit", any16.make_fragment_B(any16.partition_B(rows16)));
  printDescriptors("b_8bit", any8.make_fragment_B(any8.partition_B(rows8)));
  printDescriptors("b_values", anyn.make_fragment_B(anyn.partition_B(rowsn)));

  printSums<SM90_64x64x16_F32BF16BF16_SS<kK, kK>>("sums_64", One{});
  printSums<Scores>("sums_128", One{});
  printSums<SM90_64x256x16_F32BF16BF16_SS<kK, kK>>("sums_256", One{});
  printSums<Scores>("sums_128_below", Below{});
  printSums<Scores>("sums_128_beside", Beside{});
  printSums<SM90_64x256x16_F32BF16BF16_SS<kK, kK>>("sums_256_below", Below{});
  auto const weights = make_identity_tensor(make_shape(Int<128>{}, Int<128>{}));
  printPlaces("weights", 256, [&](int thread) { return values.get_slice(thread).partition_A(weights); });

  // Counted as cuda.h counts them: 3 is that of 128 bytes.
  auto const bits = cute::detail::get_tma_swizzle_bits(GMMA::Layout_K_SW128_Atom<K16>{});
  std::printf("swizzle %d\n", static_cast<int>(bits));
}
