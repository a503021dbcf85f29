// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "expect_product.hpp"

// The product kernel of many tokens in the executor against sums in double precision. Few tokens do as well where only
// weights matter.

namespace {

using namespace sinq;
using namespace sinq::detail::cuda;
using test::Broken;
using test::check_product;
using test::check_strides;
using test::Codes;
using test::kCodes;
using test::random_activations;
using test::random_matrix;
using test::RowMajor;

constexpr cuda::Kernel kWgmma = cuda::Kernel::wgmma;

TEST(MultiplyWgmma, OneUnit) {
  std::mt19937 random(1);
  for (const Codes& c : kCodes) {
    Format f{.bits = c.bits, .levels = c.levels};
    if (c.levels == Levels::symmetric) f.zero = Aux::none;
    for (int tiles : {16, 32}) {
      check_product<half>(random_matrix(f, 64, 64, random), 8, random, {.tiles = tiles});
      check_product<bfloat16>(random_matrix(f, 64, 64, random), 8, random, {.tiles = tiles});
    }
    if (HasFatalFailure()) return;
  }
}

TEST(MultiplyWgmma, EveryFormat) {
  test::check_every_format(kWgmma, 9);
}

TEST(MultiplyWgmma, EveryShape) {
  std::mt19937 random(3);
  unsigned k = 0;
  for (std::int64_t cols : {1, 7, 8, 15, 16, 17, 63, 64, 65, 127, 128, 129, 191, 192, 255, 257, 600})
    for (Tile tile : {Tile::stripe, Tile::square}) {
      const std::int64_t groups[] = {16, 48, 64, kWholeRow};
      const Format f{.bits = kBitWidths[++k % 6], .group_size = groups[k % 4], .tile = tile};
      check_product(random_matrix(f, 1 + k * 11 % 60, cols, random), 1 + k % 2, random, {.kernel = kWgmma});
      if (HasFatalFailure()) return;
    }
  // Blocks of every number of warpgroups, some of whose warps have no strip, and of several panels.
  for (std::int64_t rows : {1, 7, 8, 9, 15, 16, 17, 63, 65, 128, 129, 140, 257, 300})
    for (Tile tile : {Tile::stripe, Tile::square}) {
      const Format f{.group_size = rows % 3 == 0 ? 32 : 16, .tile = tile};
      check_product(random_matrix(f, rows, 50, random), 1 + rows % 20, random, {.kernel = kWgmma});
      if (HasFatalFailure()) return;
    }
}

TEST(MultiplyWgmma, EveryNumberOfTokens) {
  std::mt19937 random(4);
  const std::vector<Format> formats = test::formats();
  for (std::int64_t tokens : {1, 2, 7, 8, 9, 31, 33, 64, 65, 100, 127, 128, 129, 200, 255, 256, 257, 300}) {
    const Format& f = formats[random() % formats.size()];
    const cuda::PlanOptions options{.kernel = tokens < kWgmmaFrom ? kWgmma : cuda::Kernel::automatic};
    check_product<half>(random_matrix(f, 1 + random() % 30, 1 + random() % 130, random), tokens, random, options);
    check_product<bfloat16>(random_matrix(f, 1 + random() % 80, 1 + random() % 50, random), tokens, random, options);
    if (HasFatalFailure()) return;
  }
}

TEST(MultiplyWgmma, EveryCut) {
  std::mt19937 random(6);
  for (std::int64_t group : {16, 48, 64, 80, 256})
    for (int slices : {1, 2, 3, 7})
      for (int warps : {4, 8}) {
        const Format f{.bits = 3, .group_size = group, .scale = Aux::u6, .zero = Aux::u6, .coarse_groups = 3};
        check_product(random_matrix(f, 16, 64 * 13 + 5, random), 2, random,
                      {.kernel = kWgmma, .warps = warps, .slices = slices});
        if (HasFatalFailure()) return;
      }
}

TEST(MultiplyWgmma, LongStreamsWrapTheirRings) {
  std::mt19937 random(7);
  for (int bits : kBitWidths)
    for (Aux aux : {Aux::u4, Aux::u6, Aux::f32}) {
      const Format f{
          .bits = bits, .group_size = 16, .scale = aux, .zero = aux, .coarse_groups = is_integer(aux) ? 8 : 0};
      check_product(random_matrix(f, 16, 64 * 40, random), 1, random, {.kernel = kWgmma, .slices = 1});
      if (HasFatalFailure()) return;
    }
}

TEST(MultiplyWgmma, ElementTypesStridesAndBias) {
  check_strides<half, half>(false, {.kernel = kWgmma});
  check_strides<bfloat16, bfloat16>(true, {.kernel = kWgmma});
  check_strides<half, float>(true, {.kernel = kWgmma});
  check_strides<bfloat16, half>(false, {.kernel = kWgmma});
}

TEST(MultiplyWgmma, ResultsAreWrittenAsTheirTypeAllows) {
  std::mt19937 random(8);
  check_product<half, half>(random_matrix({}, 64, 64, random), 40, random, {.kernel = kWgmma});
  check_product<bfloat16, bfloat16>(random_matrix({}, 72, 64, random), 40, random, {.kernel = kWgmma});
  check_product<half, float>(random_matrix({}, 52, 64, random), 40, random, {.kernel = kWgmma});
}

TEST(MultiplyWgmma, SameBitsInAnyOrderOfExecution) {
  std::mt19937 random(10);
  const QuantizedMatrix q = random_matrix({.group_size = 48}, 200, 300, random);
  const RowMajor<half> x = random_activations<half>(70, 300, random);
  RowMajor<float> y[2];
  for (bool backwards : {false, true}) {
    y[backwards].resize(70, 200);
    const auto run =
        test::simulate<half, float>(q, MatrixView<const half>(x), MatrixView<float>(y[backwards]), nullptr,
                                    {.slices = 3}, {}, [&](test::Executor& e, Product&) { e.backwards = backwards; });
    EXPECT_EQ(run.plan.kernel, kWgmma);
    EXPECT_EQ(run.failure, "");
  }
  EXPECT_EQ(y[0], y[1]);
}

// --- bugs put in ----------------------------------------------------------------------------------------------------

/// Two warpgroups, one slice.
Broken with_bug_in_wgmma(const std::function<void(test::Executor&, Product&)>& bug, std::int64_t cols = 300,
                         int bits = 4) {
  return test::with_bug({.kernel = kWgmma, .warps = 8, .slices = 1}, (cols + 7) / 8 * 8, bug, cols, bits);
}

TEST(BugsWgmma, EveryRemovedBarrierIsFound) {
  // One after the rows are noted, one per unit, one before the results are written.
  for (int n = 0; n < 11; ++n)
    EXPECT_NE(with_bug_in_wgmma([&](test::Executor& e, Product&) { e.faults.skip_barrier = n; }, 64 * 9).failure, "")
        << n;
}

TEST(BugsWgmma, EveryRemovedWarpBarrierIsFound) {
  // What was copied is there, and decoded; from round to round: all have read it, the next is decoded; the results.
  for (int n = 0; n < 2 + 2 * 4 + 1; ++n)
    EXPECT_NE(
        with_bug_in_wgmma([&](test::Executor& e, Product&) { e.faults.skip_warp_barrier = n; }, 64 * 20, 3).failure, "")
        << n;
}

TEST(BugsWgmma, EveryMissingWaitIsFound) {
  EXPECT_NE(with_bug_in_wgmma([](test::Executor& e, Product&) { e.faults.wait_less = 1; }).failure, "");
  EXPECT_NE(with_bug_in_wgmma([](test::Executor& e, Product&) { e.faults.finish_less = 1; }).failure, "");
}

TEST(BugsWgmma, EveryMissingFenceIsFound) {
  for (int n : {0, 2, 3, 4})  // the second is the first that knows of the registers that it is about
    EXPECT_NE(with_bug_in_wgmma([&](test::Executor& e, Product&) { e.faults.skip_wgmma_fence = n; }).failure, "") << n;
  for (int n = 0; n < 5; ++n)
    EXPECT_NE(with_bug_in_wgmma([&](test::Executor& e, Product&) { e.faults.skip_proxy_fence = n; }, 64 * 5).failure,
              "")
        << n;
}

TEST(BugsWgmma, ASwappedFragmentGivesWrongResults) {
  EXPECT_TRUE(with_bug_in_wgmma([](test::Executor& e, Product&) { e.faults.swap_operands = true; }).wrong);
}

TEST(BugsWgmma, OneColumnTooManyAtTheShortGroupIsFound) {
  const Broken b = with_bug_in_wgmma([](test::Executor&, Product& p) { ++p.w.cols; });
  EXPECT_NE(b.failure.find("outside x"), std::string::npos) << b.failure;
}

TEST(BugsWgmma, OneRowTooManyIsFound) {
  EXPECT_NE(
      with_bug_in_wgmma([](test::Executor&, Product& p) { ++p.members[0].rows, ++p.members[0].tile_height; }).failure,
      "");
}

TEST(BugsWgmma, ARingThatIsTooSmallIsFound) {
  EXPECT_NE(with_bug_in_wgmma([](test::Executor&, Product& p) { p.aux_ring /= 8; }, 3000).failure, "");
}

}  // namespace
