// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "expect_product.hpp"
#include "small_and_large.hpp"

// The product kernel in the executor against sums in double precision.

namespace {

using namespace sinq;
using namespace sinq::detail::cuda;
using test::Broken;
using test::check_product;
using test::check_strides;
using test::Codes;
using test::expect_product;
using test::kCodes;
using test::random_activations;
using test::random_float;
using test::random_matrix;
using test::RowMajor;

TEST(Multiply, OneUnit) {
  std::mt19937 random(1);
  for (const Codes& c : kCodes) {
    Format f{.bits = c.bits, .levels = c.levels};
    if (c.levels == Levels::symmetric) f.zero = Aux::none;
    check_product(random_matrix(f, 16, 64, random), 1, random);
    if (HasFatalFailure()) return;
  }
}

TEST(Multiply, EveryFormat) {
  test::check_every_format(cuda::Kernel::mma, 4);
}

/// Activations in two halves meet integers, levels of a table and signs alike.
TEST(Multiply, EveryElementTypeWithABias) {
  std::mt19937 random(12);
  const Format some[] = {
      {.bits = 4, .levels = Levels::table, .group_size = 16, .scale = Aux::u5, .zero = Aux::none, .signed_scale = true},
      {.bits = 4, .group_size = 64, .scale = Aux::u8, .zero = Aux::u8},
      {.bits = 8, .group_size = 128},
      {.bits = 4, .levels = Levels::nf4}};
  for (const Format& f : some) {
    const QuantizedMatrix q = random_matrix(f, 40, 200, random);
    const auto check = [&]<class X, class Y>(X, Y) {
      for (std::int64_t tokens : {7, 20}) {
        const RowMajor<X> x = random_activations<X>(tokens, q.cols, random);
        const RowMajor<Y> bias = random_activations<Y>(1, q.rows, random);
        RowMajor<Y> y = RowMajor<Y>::Constant(tokens, q.rows, static_cast<Y>(NAN));
        const MatrixView<const X> xs(x);
        const MatrixView<Y> ys(y);
        const auto run = test::simulate<X, Y>(q, xs, ys, bias.data(), {.slices = tokens == 7 ? 2 : 1});
        expect_product<X, Y>(q, xs, ys, bias.data(), run);
      }
    };
    const auto check_results = [&](auto x) { check(x, half{}), check(x, bfloat16{}), check(x, float{}); };
    check_results(half{}), check_results(bfloat16{}), check_results(float{});
    if (HasFatalFailure()) return;
  }
}

TEST(Multiply, EveryShape) {
  std::mt19937 random(3);
  unsigned k = 0;
  for (std::int64_t cols : {1, 7, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 257, 600})
    for (Tile tile : {Tile::stripe, Tile::square}) {
      const std::int64_t groups[] = {16, 48, 64, kWholeRow};
      const Format f{.bits = kBitWidths[++k % 6], .group_size = groups[k % 4], .tile = tile};
      check_product(random_matrix(f, 1 + k * 11 % 60, cols, random), 1 + k % 2, random);
      if (HasFatalFailure()) return;
    }
  for (std::int64_t rows : {1, 7, 8, 9, 15, 16, 17, 31, 33, 127, 128, 129, 140, 300}) {
    const Format f{.group_size = 32, .tile = rows % 2 ? Tile::square : Tile::stripe};
    check_product(random_matrix(f, rows, 50, random), 1, random);
    if (HasFatalFailure()) return;
  }
}

TEST(Multiply, EveryNumberOfTokens) {
  std::mt19937 random(4);
  const std::vector<Format> formats = test::formats();
  const auto check = [&](std::int64_t tokens) {
    const Format& f = formats[random() % formats.size()];
    // Named, since the plan gives many tokens to wgmma.
    check_product(random_matrix(f, 1 + random() % 40, 1 + random() % 200, random), tokens, random,
                  {.kernel = cuda::Kernel::mma});
  };
  for (std::int64_t tokens = 1; tokens <= 66 && !HasFatalFailure(); ++tokens) check(tokens);
  for (std::int64_t tokens : {100, 127, 128, 129, 200}) {
    check(tokens);
    if (HasFatalFailure()) return;
  }
}

TEST(Multiply, EveryInstantiation) {
  std::mt19937 random(5);
  for (const Codes& c : kCodes)
    for (int tiles : {1, 2, 4, 8})
      for (int pieces : {1, 2}) {
        Format f{.bits = c.bits, .levels = c.levels, .group_size = 32};
        if (c.levels == Levels::symmetric) f.zero = Aux::none;
        check_product(random_matrix(f, 20, 150, random), 4 * tiles + 1, random,
                      {.pieces = pieces, .tiles = tiles, .warps = tiles});
        if (HasFatalFailure()) return;
      }
}

TEST(Multiply, EveryCut) {
  std::mt19937 random(6);
  for (std::int64_t group : {16, 48, 64, 80, 256})
    for (int slices : {1, 2, 3, 7})
      for (int chunk : {1, 2, 3, 0}) {
        const Format f{.bits = 3, .group_size = group, .scale = Aux::u6, .zero = Aux::u6, .coarse_groups = 3};
        check_product(random_matrix(f, 16, 64 * 13 + 5, random), 2, random, {.slices = slices, .chunk_units = chunk});
        if (HasFatalFailure()) return;
      }
}

/// The last strips of a block may not exist, nor its last warps; chunks are staged again for each strip.
TEST(Multiply, StripsInTurn) {
  std::mt19937 random(13);
  for (int tiles : {1, 2, 8})
    for (int strips : {2, 3, 8})
      for (int slices : {1, 2})
        for (int chunk : {1, 0}) {
          const Format f{.bits = 4,
                         .levels = slices == 1 ? Levels::uniform : Levels::nf4,
                         .group_size = 48,
                         .tile = chunk == 1 ? Tile::stripe : Tile::square};
          check_product(random_matrix(f, 75, 300, random), 4 * tiles + 1, random,
                        {.tiles = tiles, .warps = 2, .strips = strips, .slices = slices, .chunk_units = chunk});
          if (HasFatalFailure()) return;
        }
}

TEST(Multiply, LongStreamsWrapTheirRings) {
  std::mt19937 random(7);
  for (int bits : kBitWidths)
    for (Aux aux : {Aux::u4, Aux::u6, Aux::f32}) {
      const Format f{
          .bits = bits, .group_size = 16, .scale = aux, .zero = aux, .coarse_groups = is_integer(aux) ? 8 : 0};
      check_product(random_matrix(f, 16, 64 * 40, random), 1, random, {.slices = 1});
      if (HasFatalFailure()) return;
    }
}

TEST(Multiply, ElementTypesStridesAndBias) {
  check_strides<half, half>(false);
  check_strides<bfloat16, bfloat16>(true);
  check_strides<float, float>(true);
  check_strides<half, float>(false);
  check_strides<bfloat16, half>(false);
}

TEST(Multiply, ActivationsOfAnySizeNeitherOverflowNorVanish) {
  std::mt19937 random(9);
  const QuantizedMatrix q = random_matrix({.group_size = 32, .col_scale = Aux::f32}, 16, 100, random);
  for (float size : {0x1p-126f, 0x1p-100f, 1e-10f, 1e4f, 1e10f, 0x1p100f}) {
    RowMajor<float> x = random_activations<float>(3, 100, random) * size;
    x.row(1).setZero();
    RowMajor<float> y = RowMajor<float>::Constant(3, 16, NAN);
    const auto run = test::simulate<float, float>(q, MatrixView<const float>(x), MatrixView<float>(y));
    EXPECT_EQ(y.row(1), RowMajor<float>::Zero(1, 16));
    if (size < 0x1p-90f) continue;  // below the exponents that are told apart
    expect_product<float, float>(q, MatrixView<const float>(x), MatrixView<float>(y), nullptr, run);
    if (HasFatalFailure()) return;
  }
  RowMajor<half> x = RowMajor<half>::Constant(2, 100, static_cast<half>(1.0f));
  x(1, 5) = std::numeric_limits<half>::infinity();
  RowMajor<float> y(2, 16);
  EXPECT_EQ((test::simulate<half, float>(q, MatrixView<const half>(x), MatrixView<float>(y)).failure), "");
  for (int i = 0; i < 16; ++i) {
    EXPECT_TRUE(std::isfinite(y(0, i)));
    EXPECT_FALSE(std::isfinite(y(1, i)));
  }
}

TEST(Multiply, SmallActivationsAddToLargeOnes) {
  using test::SmallAndLarge;
  const std::vector<float> x = SmallAndLarge::activations();
  for (int bits : kBitWidths)
    for (std::int64_t tokens : {std::int64_t{1}, SmallAndLarge::kTokens}) {
      RowMajor<float> y = RowMajor<float>::Constant(tokens, SmallAndLarge::kRows, NAN);
      const auto run = test::simulate<float, float>(SmallAndLarge::ones(bits),
                                                    MatrixView<const float>(x.data(), tokens, SmallAndLarge::kCols),
                                                    MatrixView<float>(y), nullptr, {.pieces = 2, .slices = 1});
      EXPECT_EQ(run.failure, "");
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t i = 0; i < SmallAndLarge::kRows; ++i)
          ASSERT_EQ(double{y(t, i)}, SmallAndLarge::exact(x, t)) << "bits " << bits << " token " << t << " row " << i;
    }
}

/// One or two activations of each token are 2^5, 2^10, ... times as large as the others, whose products are cut off
/// where theirs are. The others have one sign, so that what is cut off adds up, and there may be no more than a step's
/// 16 columns, whose sums' own rounding does not hide it.
TEST(Multiply, LargeActivationsBesideOthers) {
  std::mt19937 random(14);
  const Format some[] = {{.bits = 4, .group_size = 64},
                         {.bits = 3, .group_size = 16, .scale = Aux::u6, .zero = Aux::u6, .coarse_groups = 3},
                         {.bits = 8, .levels = Levels::symmetric, .group_size = 128, .zero = Aux::none},
                         {.bits = 4, .levels = Levels::nf4}};
  for (const Format& f : some)
    for (int pieces : {1, 2})
      for (float large : {0x1p5f, 0x1p10f, 0x1p15f, 0x1p20f}) {
        const std::int64_t cols = random() % 2 ? 16 : 200;
        const QuantizedMatrix q = random_matrix(f, 20, cols, random);
        RowMajor<float> x = random_activations<float>(4, cols, random).cwiseAbs();
        for (std::int64_t t = 0; t < 4; ++t) x(t, random() % cols) = -large, x(t, random() % 16) *= large;
        RowMajor<float> y = RowMajor<float>::Constant(4, 20, NAN);
        const auto run = test::simulate<float, float>(q, MatrixView<const float>(x), MatrixView<float>(y), nullptr,
                                                      {.pieces = pieces});
        expect_product<float, float>(q, MatrixView<const float>(x), MatrixView<float>(y), nullptr, run);
        if (HasFatalFailure()) return;
      }
}

TEST(Multiply, SameBitsInAnyOrderOfExecution) {
  std::mt19937 random(10);
  const QuantizedMatrix q = random_matrix({.group_size = 48}, 200, 300, random);
  const RowMajor<half> x = random_activations<half>(5, 300, random);
  RowMajor<float> y[2];
  for (bool backwards : {false, true}) {
    y[backwards].resize(5, 200);
    const auto run =
        test::simulate<half, float>(q, MatrixView<const half>(x), MatrixView<float>(y[backwards]), nullptr,
                                    {.slices = 3}, {}, [&](test::Executor& e, Product&) { e.backwards = backwards; });
    EXPECT_EQ(run.failure, "");
  }
  EXPECT_EQ(y[0], y[1]);
}

// --- bugs put in ----------------------------------------------------------------------------------------------------

/// Two tokens, one slice.
Broken with_bug(const std::function<void(test::Executor&, Product&)>& bug, std::int64_t cols = 300, int bits = 4) {
  return test::with_bug({.slices = 1, .chunk_units = 2}, cols, bug, cols, bits);
}

TEST(Bugs, EveryRemovedBarrierIsFound) {
  // One after the maxima are cleared, then three for each of three chunks.
  for (int n = 0; n < 10; ++n)
    EXPECT_NE(with_bug([&](test::Executor& e, Product&) { e.faults.skip_barrier = n; }, 64 * 17).failure, "") << n;
}

TEST(Bugs, EveryRemovedWarpBarrierIsFound) {
  // Three per round: what was copied is there; what was decoded is there; what was copied is not needed any more. The
  // last takes a stream longer than its ring, and a width at which lanes do not read just what they have copied.
  for (int n = 0; n < 9; ++n)
    EXPECT_NE(with_bug([&](test::Executor& e, Product&) { e.faults.skip_warp_barrier = n; }, 64 * 40, 3).failure, "")
        << n;
}

TEST(Bugs, AWaitForTooFewCopiesIsFound) {
  EXPECT_NE(with_bug([](test::Executor& e, Product&) { e.faults.wait_less = 1; }).failure, "");
}

TEST(Bugs, ASwappedFragmentGivesWrongResults) {
  EXPECT_TRUE(with_bug([](test::Executor& e, Product&) { e.faults.swap_operands = true; }).wrong);
}

TEST(Bugs, OneColumnTooManyAtTheShortGroupIsFound) {
  const Broken b = with_bug([](test::Executor&, Product& p) { ++p.w.cols; });
  EXPECT_NE(b.failure.find("outside x"), std::string::npos) << b.failure;
}

TEST(Bugs, OneRowTooManyIsFound) {
  EXPECT_NE(with_bug([](test::Executor&, Product& p) { ++p.members[0].rows, ++p.members[0].tile_height; }).failure, "");
}

TEST(Bugs, ARingThatIsTooSmallIsFound) {
  EXPECT_NE(with_bug([](test::Executor&, Product& p) { p.aux_ring /= 8; }, 3000).failure, "");
}

}  // namespace
