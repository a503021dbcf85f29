// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <sinq/core/thread_pool.hpp>
#include <sinq/matmul.hpp>
#include <sinq/matmul/tiles.hpp>

#include "support/isas.hpp"
#include "support/naive.hpp"
#include "support/product.hpp"

// Products in tiles, on the machine's own or on emulated ones (SINQ_STAND_INS). matmul_test.cpp compares formats
// and small shapes on every instruction set; here are the shapes that only this one tells apart.

namespace {

using namespace sinq;
using detail::matmul::EmulatedTiles;
using test::RowMajor;

using Operand = std::array<bfloat16, 16 * 32>;

Operand random_operand(std::mt19937& random) {
  Operand tile;
  for (auto& v : tile) v = static_cast<bfloat16>(test::random_float(random, -2, 2));
  return tile;
}

using Sums = std::array<float, 16 * 16>;

template <class Tiles>
Sums multiply(const Sums& start, const Operand& a, const Operand& b) {
  Sums c{};
  Tiles tiles(16, 64);
  tiles.template load<3>(start.data(), 64);
  tiles.template load<6>(a.data(), 64);
  tiles.template load<7>(b.data(), 64);
  tiles.template dot_bfloat16<3, 6, 7>();
  tiles.template store<3>(c.data());
  return c;
}

Sums random_sums(std::mt19937& random) {
  Sums sums;
  for (auto& v : sums) v = test::random_float(random, -2, 2);
  return sums;
}

TEST(Tiles, EmulatedOnesMultiplyPairsOfRows) {
  std::mt19937 random(1);
  const Operand a = random_operand(random), b = random_operand(random);
  const Sums start = random_sums(random);
  const Sums c = multiply<EmulatedTiles>(start, a, b);
  for (std::size_t m = 0; m < 16; ++m)
    for (std::size_t n = 0; n < 16; ++n) {
      double sum = double{start[m * 16 + n]}, size = std::abs(sum);
      for (std::size_t k = 0; k < 32; ++k) {
        const double product = static_cast<double>(a[m * 32 + k]) * static_cast<double>(b[k / 2 * 32 + 2 * n + k % 2]);
        sum += product;
        size += std::abs(product);
      }
      EXPECT_NEAR(double{c[m * 16 + n]}, sum, 18 * 0x1p-24 * size);  // 16 + 2 additions of floats
    }
}

TEST(Tiles, EmulatedOnesTakeWhatIsSubnormalForZero) {
  Operand a, b;
  a.fill(Eigen::numext::bit_cast<bfloat16>(std::uint16_t{0x007f}));
  b.fill(static_cast<bfloat16>(0x1p100f));
  EXPECT_EQ(multiply<EmulatedTiles>({}, a, b), Sums{});
}

using Bytes = std::array<std::uint8_t, 16 * 64>;
using Integers = std::array<std::int32_t, 16 * 16>;

Bytes random_bytes(std::mt19937& random) {
  Bytes tile;
  for (auto& v : tile) v = static_cast<std::uint8_t>(test::random_bits(random) >> 24);
  return tile;
}

/// Twice the product, `tokens` x `bytes` times `bytes` x 16; rows of the result that there are none of stay -1.
template <class Tiles>
Integers multiply(int tokens, int bytes, const Bytes& a, const Bytes& b) {
  Integers c;
  c.fill(-1);
  Tiles tiles(tokens, bytes);
  tiles.template zero<2>();
  tiles.template load<6>(a.data(), 64);
  tiles.template load<7>(b.data(), 64);
  tiles.template dot_bytes<2, 6, 7>();
  tiles.template dot_bytes<2, 6, 7>();
  tiles.template store<2>(c.data());
  return c;
}

TEST(Tiles, EmulatedOnesMultiplyFoursOfBytes) {
  std::mt19937 random(4);
  for (int tokens : {1, 5, 16})
    for (int bytes : {16, 32, 48, 64}) {
      const Bytes a = random_bytes(random), b = random_bytes(random);
      const Integers c = multiply<EmulatedTiles>(tokens, bytes, a, b);
      for (std::size_t m = 0; m < 16; ++m)
        for (std::size_t n = 0; n < 16; ++n) {
          int sum = 0;
          for (std::size_t k = 0; k < static_cast<std::size_t>(bytes); ++k)
            sum += static_cast<std::int8_t>(a[m * 64 + k]) * b[k / 4 * 64 + 4 * n + k % 4];
          EXPECT_EQ(c[m * 16 + n], m < static_cast<std::size_t>(tokens) ? 2 * sum : -1);
        }
    }
}

#if defined(__x86_64__)
TEST(Tiles, OfTheMachineGiveTheSameBits) {
  if (!detail::core::has_tiles()) GTEST_SKIP() << "this machine has no AMX";
  using detail::matmul::HardwareTiles;
  std::mt19937 random(2);
  for (int round = 0; round < 100; ++round) {
    const Operand a = random_operand(random), b = random_operand(random);
    const Sums start = random_sums(random);
    EXPECT_EQ(multiply<HardwareTiles>(start, a, b), multiply<EmulatedTiles>(start, a, b));
    const int tokens = 1 + round % 16, bytes = 16 * (1 + round % 4);
    const Bytes x = random_bytes(random), w = random_bytes(random);
    EXPECT_EQ(multiply<HardwareTiles>(tokens, bytes, x, w), multiply<EmulatedTiles>(tokens, bytes, x, w));
  }
}
#endif

const Format kTileFormats[] = {
    {.bits = 4, .group_size = kWholeRow},
    {.bits = 3, .group_size = 128, .tile = Tile::square},
    {.bits = 8, .group_size = 96, .scale = Aux::u8, .zero = Aux::u8},
    {.bits = 2, .levels = Levels::table, .group_size = 16, .scale = Aux::u5, .zero = Aux::u4},
    {.bits = 6, .group_size = 16, .scale = Aux::u6, .zero = Aux::u6, .coarse_groups = 3},
    {.bits = 5, .levels = Levels::symmetric, .group_size = 48, .zero = Aux::none},
    {.bits = 4, .levels = Levels::nf4, .group_size = 64, .zero = Aux::none},
    {.bits = 3, .levels = Levels::table, .group_size = 32},
    {.bits = 2, .levels = Levels::table, .group_size = 80, .zero = Aux::none},
    {.bits = 2, .group_size = 112},
    {.bits = 8, .group_size = 64, .scale = Aux::f32, .zero = Aux::bf16},
    {.bits = 4, .group_size = 32, .scale = Aux::u8, .zero = Aux::u8},
};

/// Few tokens and more than a pass takes, rows of several tasks, panels of more strips than a task takes at once,
/// chunks of several blocks and blocks of several chunks; half a unit at the end of the only chunk.
TEST(Tiles, LargeProducts) {
  if (!detail::core::supported(Isa::amx)) GTEST_SKIP() << "this machine has no AVX-512";
  const Isa before = current_isa();
  force_isa(Isa::amx);
  std::mt19937 random(3);
  Eigen::ThreadPool pool(2);
  ThreadPoolExecutor threads(pool);
  unsigned k = 0;
  for (const Format& f : kTileFormats)
    for (std::int64_t tokens : {5, 11, 96, 97, 530}) {
      const std::int64_t rows = 200 + ++k * 37 % 100, cols = tokens == 11 ? 48 : 1000 + k * 131 % 600;
      const QuantizedMatrix q = test::random_matrix(f, rows, cols, random);
      const RowMajor<float> x =
          RowMajor<float>::NullaryExpr(tokens, cols, [&] { return test::random_float(random, -1, 1); });
      const PackedMatrix p = pack(q);
      std::vector<std::byte> workspace(matmul_workspace(p, tokens, threads.width()));
      for (Numerics numerics : {Numerics::exact, Numerics::fast}) {
        std::fill(workspace.begin(), workspace.end(), std::byte{0xff});  // NaN
        RowMajor<float> y = RowMajor<float>::Constant(tokens, rows, NAN);
        matmul(p, x, y, {.executor = &threads, .workspace = workspace, .numerics = numerics});
        // 530 tokens are one pass and 18 more; what is beyond a pass is computed alone.
        const std::int64_t pass = detail::matmul::token_block(numerics);
        for (std::int64_t first = 0; first < tokens; first += pass) {
          const std::int64_t count = std::min(pass, tokens - first);
          const MatrixView<const float> part(x.data() + first * cols, count, cols, cols);
          const auto expected = test::expected_product<float>(q, part, numerics, test::in_bfloat16(q, numerics, count));
          for (std::int64_t t = 0; t < count; ++t)
            for (std::int64_t i = 0; i < rows; ++i)
              ASSERT_NEAR(double{y(first + t, i)}, expected.value(t, i), expected.error(t, i))
                  << "token " << first + t << " row " << i << " of " << rows << 'x' << cols << ", " << tokens
                  << " tokens, bits " << f.bits << ", fast " << (numerics == Numerics::fast);
        }
      }
    }
  force_isa(before);
}

/// Byte by byte the same sums, scaled in the same order, wherever vectors do not stay in integers.
TEST(Tiles, BytesGiveTheBitsOfVectors) {
  if (!detail::core::supported(Isa::amx)) GTEST_SKIP() << "this machine has no AVX-512";
  const Isa before = current_isa();
  std::mt19937 random(5);
  int compared = 0;
  for (const Format& f : kTileFormats) {
    const QuantizedMatrix q = test::random_matrix(f, 50, 900, random);
    if (detail::matmul::has_integer_groups(f, q.tiling())) continue;
    const PackedMatrix p = pack(q);
    for (std::int64_t tokens : {5, 7, 16, 23, 31})
      for (Numerics numerics : {Numerics::exact, Numerics::fast}) {
        force_isa(Isa::amx);
        using detail::matmul::TileProducts;
        if (detail::matmul::tile_products(f, q.tiling(), tokens, numerics) != TileProducts::bytes) continue;
        if (numerics == Numerics::exact && detail::matmul::exact_in_floats(f, q.tiling(), tokens)) continue;
        const RowMajor<float> x =
            RowMajor<float>::NullaryExpr(tokens, 900, [&] { return test::random_float(random, -1, 1); });
        RowMajor<float> in_tiles(tokens, 50), in_vectors(tokens, 50);
        matmul(p, x, in_tiles, {.numerics = numerics});
        force_isa(Isa::avx512);
        matmul(p, x, in_vectors, {.numerics = numerics});
        EXPECT_EQ(in_tiles, in_vectors) << "bits " << f.bits << ", " << tokens << " tokens";
        ++compared;
      }
  }
  EXPECT_GT(compared, 60);
  force_isa(before);
}

}  // namespace
