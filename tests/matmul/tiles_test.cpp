// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <sinq/core/thread_pool.hpp>
#include <sinq/matmul.hpp>

#include "support/isas.hpp"
#include "support/naive.hpp"
#include "support/product.hpp"

// Products in tiles, on the machine's own or on emulated ones (SINQ_STAND_INS). matmul_test.cpp compares formats
// and small shapes on every instruction set; here are the shapes that only this one tells apart.

namespace {

using namespace sinq;
using detail::matmul::EmulatedTiles;

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
  Tiles tiles;
  tiles.template load<3>(start.data(), 64);
  tiles.template load<5>(a.data(), 64);
  tiles.template load<7>(b.data(), 64);
  tiles.template dot<3, 5, 7>();
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

#if defined(__x86_64__)
TEST(Tiles, OfTheMachineGiveTheSameBits) {
  if (!detail::core::has_tiles()) GTEST_SKIP() << "this machine has no AMX";
  std::mt19937 random(2);
  for (int round = 0; round < 100; ++round) {
    const Operand a = random_operand(random), b = random_operand(random);
    const Sums start = random_sums(random);
    EXPECT_EQ(multiply<detail::matmul::HardwareTiles>(start, a, b), multiply<EmulatedTiles>(start, a, b));
  }
}
#endif

/// More tokens than a pass takes, rows of several tasks, panels of more strips than a task takes at once, chunks of
/// several blocks and blocks of several chunks; half a unit at the end of the only chunk.
TEST(Tiles, LargeProducts) {
  if (!detail::core::supported(Isa::amx)) GTEST_SKIP() << "this machine has no AVX-512";
  const Isa before = current_isa();
  force_isa(Isa::amx);
  std::mt19937 random(3);
  Eigen::ThreadPool pool(2);
  ThreadPoolExecutor threads(pool);
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Format formats[] = {
      {.bits = 4, .group_size = kWholeRow},
      {.bits = 3, .group_size = 128, .tile = Tile::square},
      {.bits = 8, .group_size = 96, .scale = Aux::u8, .zero = Aux::u8},
      {.bits = 2, .levels = Levels::table, .group_size = 16, .scale = Aux::u5, .zero = Aux::u4},
      {.bits = 6, .group_size = 16, .scale = Aux::u6, .zero = Aux::u6, .coarse_groups = 3},
      {.bits = 5, .levels = Levels::symmetric, .group_size = 48, .zero = Aux::none},
  };
  unsigned k = 0;
  for (const Format& f : formats)
    for (std::int64_t tokens : {11, 96, 97, 530}) {
      const std::int64_t rows = 200 + ++k * 37 % 100, cols = tokens == 11 ? 48 : 1000 + k * 131 % 600;
      const QuantizedMatrix q = test::random_matrix(f, rows, cols, random);
      const RowMajor x = RowMajor::NullaryExpr(tokens, cols, [&] { return test::random_float(random, -1, 1); });
      RowMajor y = RowMajor::Constant(tokens, rows, NAN);
      ASSERT_TRUE(detail::matmul::uses_tiles(Numerics::fast, tokens));
      const PackedMatrix p = pack(q);
      std::vector<std::byte> workspace(matmul_workspace(p, tokens, threads.width()), std::byte{0xff});  // NaN
      matmul(p, x, y, {.executor = &threads, .workspace = workspace, .numerics = Numerics::fast});
      // 530 tokens are one pass and 18 more; what is beyond a pass is computed alone.
      const auto expected = test::expected_product<float>(q, MatrixView<const float>(x), Numerics::fast, true);
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t i = 0; i < rows; ++i)
          ASSERT_NEAR(double{y(t, i)}, expected.value(t, i), expected.error(t, i))
              << "token " << t << " row " << i << " of " << rows << 'x' << cols << ", " << tokens << " tokens, bits "
              << f.bits;
    }
  force_isa(before);
}

}  // namespace
