// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <sinq/quantize.hpp>

#include "support/naive.hpp"

// Levels found by a grid are those found by comparing with every boundary.

#if defined(__x86_64__) && !defined(__clang__)
namespace {

using namespace sinq;
using detail::quantize::LevelGrid;

struct NearestByGrid {
  template <int kWidth>
  [[gnu::always_inline]] static void run(const LevelGrid& grid, const float* position, float* level) noexcept {
    grid.nearest(detail::core::Lanes<kWidth>::load(position)).store(level);
  }
};

struct Codebook {
  float level[32] = {};
  float middle[32] = {};
  int levels = 0;

  explicit Codebook(const std::vector<float>& all) : levels(static_cast<int>(all.size())) {
    std::copy(all.begin(), all.end(), level);
    for (int k = 0; k + 1 < levels; ++k) middle[k] = level[k] / 2 + level[k + 1] / 2;
  }
  [[nodiscard]] float nearest(float position) const {
    int code = 0;
    while (code + 1 < levels && middle[code] < position) ++code;
    return level[code];
  }
};

/// Positions on boundaries, beside them, and anywhere.
void compare(const Codebook& book, const LevelGrid& grid, std::mt19937& random) {
  std::vector<float> positions = {0, 1e30f, -1e30f, INFINITY, -INFINITY};
  for (int k = 0; k + 1 < book.levels; ++k)
    for (float towards : {-INFINITY, INFINITY})
      for (float at : {book.middle[k], book.level[k], (book.middle[k] + book.level[k]) / 2}) {
        positions.push_back(at);
        positions.push_back(std::nextafter(at, towards));
      }
  const float low = book.level[0], high = book.level[book.levels - 1];
  while (positions.size() < 4000 || positions.size() % 16 != 0)
    positions.push_back(test::random_float(random, 1.3f * low - 0.3f * high, 1.3f * high - 0.3f * low));
  for (std::size_t k = 0; k < positions.size(); k += 16) {
    float level[16];
    float* const out = level;
    detail::core::run_avx512<NearestByGrid>(grid, positions.data() + k, out);
    for (std::size_t l = 0; l < 16; ++l) ASSERT_EQ(level[l], book.nearest(positions[k + l])) << positions[k + l];
  }
}

TEST(LevelGrid, FindsTheNearestLevel) {
  if (!detail::core::supported(Isa::avx512)) GTEST_SKIP() << "this machine has no AVX-512";
  std::mt19937 random(1);
  int usable = 0, unusable = 0;
  const auto check = [&](const std::vector<float>& levels) {
    const Codebook book(levels);
    const LevelGrid grid(book.level, book.middle, book.levels);
    ++(grid.usable ? usable : unusable);
    if (grid.usable) compare(book, grid, random);
  };
  check({kNf4.begin(), kNf4.end()});
  check({kNf3.begin(), kNf3.end()});
  EXPECT_EQ(usable, 2);
  for (int round = 0; round < 400; ++round) {
    std::set<float> levels;
    while (levels.size() < (round % 2 == 0 ? 8u : 16u))
      levels.insert(std::floor(test::random_float(random, -128, round % 3 == 0 ? 128 : -90)));
    check({levels.begin(), levels.end()});
  }
  EXPECT_GT(usable, 50);
  EXPECT_GT(unusable, 50);
}

TEST(LevelGrid, ServesTheTablesOfThePresets) {
  for (double size : kPresets)
    for (Role role : {Role::query, Role::other, Role::value, Role::down}) {
      const QuantizeConfig c = preset(size, role);
      if (c.rounding != Rounding::table || c.bits < 3) continue;
      const Format f{.bits = c.bits, .levels = Levels::table, .scale = c.scale, .zero = c.zero};
      const detail::quantize::FitPlan plan(f, fitted_levels(c.bits, c.zero != Aux::none), {});
      EXPECT_TRUE(plan.grid.usable) << size;
    }
}

}  // namespace
#endif
