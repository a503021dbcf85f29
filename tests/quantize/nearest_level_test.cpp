// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <sinq/quantize/fit.hpp>

#include "support/naive.hpp"

// Levels found by a grid or in bytes are those found by comparing with every boundary.

#if defined(__x86_64__) && !defined(__clang__)
namespace {

using namespace sinq;
using detail::quantize::LevelBytes;
using detail::quantize::LevelGrid;

/// Levels (and codes, where they are found) of 64 positions.
struct Found {
  float level[64];
  std::uint8_t code[64];
};

struct NearestByGrid {
  template <int kWidth>
  [[gnu::always_inline]] static void run(const LevelGrid& grid, const float* position, Found* found) noexcept {
    for (int k = 0; k < 64; k += kWidth)
      grid.nearest(detail::core::Lanes<kWidth>::load(position + k)).store(found->level + k);
  }
};

template <int kLevels>
struct NearestInBytes {
  template <int kWidth>
  [[gnu::always_inline]] static void run(const LevelBytes& bytes, const float* position, Found* to) noexcept {
    using Float = detail::core::Lanes<kWidth>;
    Float v[2][LevelBytes::kVectors];
    for (int k = 0; k < 64; k += kWidth) {
      const Float at_most = min(Float(256), Float::load(position + k));
      v[k / 32][k % 32 / kWidth] = at_most + at_most;
    }
    const LevelBytes::Searches<kLevels> found(bytes, v[0], v[1]);
    found.store_codes(to->code);
    found.levels(v[0], v[1]);
    for (int k = 0; k < 64; k += kWidth) v[k / 32][k % 32 / kWidth].store(to->level + k);
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
  [[nodiscard]] int nearest(float position) const {
    int code = 0;
    while (code + 1 < levels && middle[code] < position) ++code;
    return code;
  }
};

/// Positions on boundaries, beside them, and anywhere. `find(positions)` looks at 64 of them.
template <class Find>
void compare(const Codebook& book, std::mt19937& random, bool codes, Find&& find) {
  std::vector<float> positions = {0, 1e-45f, -1e-45f, 1e30f, -1e30f, INFINITY, -INFINITY, NAN};
  for (int k = 0; k + 1 < book.levels; ++k)
    for (float towards : {-INFINITY, INFINITY})
      for (float at : {book.middle[k], book.level[k], (book.middle[k] + book.level[k]) / 2}) {
        positions.push_back(at);
        positions.push_back(std::nextafter(at, towards));
      }
  const float low = book.level[0], high = book.level[book.levels - 1];
  while (positions.size() < 4000 || positions.size() % 64 != 0)
    positions.push_back(test::random_float(random, 1.3f * low - 0.3f * high, 1.3f * high - 0.3f * low));
  for (std::size_t k = 0; k < positions.size(); k += 64) {
    const Found found = find(positions.data() + k);
    for (std::size_t l = 0; l < 64; ++l) {
      const int code = book.nearest(positions[k + l]);
      ASSERT_EQ(found.level[l], book.level[code]) << positions[k + l];
      if (codes) {
        ASSERT_EQ(found.code[l], code) << positions[k + l];
      }
    }
  }
}

/// Ascending integers.
std::vector<float> random_levels(std::mt19937& random, std::size_t count, float low, float high) {
  std::set<float> levels;
  while (levels.size() < count) levels.insert(std::floor(test::random_float(random, low, high)));
  return {levels.begin(), levels.end()};
}

TEST(LevelGrid, FindsTheNearestLevel) {
  if (!detail::core::supported(Isa::avx512)) GTEST_SKIP() << "this machine has no AVX-512";
  std::mt19937 random(1);
  int usable = 0, unusable = 0;
  const auto check = [&](const std::vector<float>& levels) {
    const Codebook book(levels);
    const LevelGrid grid(book.level, book.middle, book.levels);
    ++(grid.usable ? usable : unusable);
    if (!grid.usable) return;
    compare(book, random, false, [&](const float* positions) {
      Found found;
      Found* const to = &found;
      detail::core::run_avx512<NearestByGrid>(grid, positions, to);
      return found;
    });
  };
  check({kNf4.begin(), kNf4.end()});
  check({kNf3.begin(), kNf3.end()});
  EXPECT_EQ(usable, 2);
  for (int round = 0; round < 400; ++round)
    check(random_levels(random, round % 2 == 0 ? 8 : 16, -128, round % 3 == 0 ? 128 : -90));
  EXPECT_GT(usable, 50);
  EXPECT_GT(unusable, 50);
}

TEST(LevelBytes, FindTheNearestLevel) {
  if (!detail::core::supported(Isa::avx2)) GTEST_SKIP() << "this machine has no AVX2";
  std::mt19937 random(2);
  int usable = 0, unusable = 0;
  const auto check = [&](const std::vector<float>& levels) {
    const Codebook book(levels);
    const LevelBytes bytes(book.level, book.middle, book.levels);
    ++(bytes.usable() ? usable : unusable);
    if (!bytes.usable()) return;
    compare(book, random, true, [&](const float* positions) {
      Found found;
      Found* const to = &found;
      if (book.levels == 16)
        detail::core::run_avx2<NearestInBytes<16>>(bytes, positions, to);
      else
        detail::core::run_avx2<NearestInBytes<8>>(bytes, positions, to);
      return found;
    });
  };
  // No integers; a boundary at 0; a half whose boundaries are 127.5 apart. Then two where they are 127.
  check({kNf4.begin(), kNf4.end()});
  check({-127, -100, -50, -5, 5, 50, 100, 127});
  check({-128, -126, 0, 1, 100, 101, 102, 103});
  EXPECT_EQ(usable, 0);
  check({-128, -125, -1, 2, 100, 101, 102, 103});
  check({-128, -127, -126, -125, -2, 1, 126, 127});
  EXPECT_EQ(usable, 2);
  for (int round = 0; round < 400; ++round)
    check(random_levels(random, round % 2 == 0 ? 8 : 16, -128, round % 3 == 0 ? 128 : -90));
  EXPECT_GT(usable, 200);
  EXPECT_GT(unusable, 10);
}

TEST(NearestLevel, IsFoundFastInTheTablesOfThePresets) {
  for (double size : kPresets)
    for (Role role : {Role::query, Role::other, Role::value, Role::down}) {
      const QuantizeConfig c = preset(size, role);
      if (c.rounding != Rounding::table || c.bits < 3) continue;
      const Format f{.bits = c.bits, .levels = Levels::table, .scale = c.scale, .zero = c.zero};
      const detail::quantize::FitPlan plan(f, fitted_levels(c.bits, c.zero != Aux::none), {});
      EXPECT_TRUE(plan.grid.usable) << size;
      EXPECT_TRUE(plan.bytes.usable()) << size;
    }
}

}  // namespace
#endif
