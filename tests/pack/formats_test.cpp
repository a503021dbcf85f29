// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "support/formats.hpp"

// That the formats of the tests hold what they are meant to.

namespace {

using namespace sinq;

struct Property {
  const char* name;
  int (*of)(const Format&);
};
constexpr Property kProperties[] = {
    {"group", [](const Format& f) { return static_cast<int>(f.group_size); }},
    {"tile", [](const Format& f) { return static_cast<int>(f.tile); }},
    {"col_scale", [](const Format& f) { return static_cast<int>(f.col_scale); }},
    {"signed_scale", [](const Format& f) { return static_cast<int>(f.signed_scale); }},
    {"coarse_groups", [](const Format& f) { return static_cast<int>(f.coarse_groups); }},
    {"codes", [](const Format& f) { return 10 * static_cast<int>(f.levels) + f.bits; }},
    {"scale", [](const Format& f) { return static_cast<int>(f.scale); }},
    {"zero", [](const Format& f) { return static_cast<int>(f.zero); }},
};
constexpr std::size_t kDrawn = 5;  // the first ones

/// Pairs of values of two properties, among the values that occur, that do not occur together.
std::size_t missing(const std::vector<Format>& all, const Property& one, const Property& other) {
  std::set<int> ones, others;
  std::set<std::pair<int, int>> pairs;
  for (const Format& f : all) {
    ones.insert(one.of(f));
    others.insert(other.of(f));
    pairs.emplace(one.of(f), other.of(f));
  }
  return ones.size() * others.size() - pairs.size();
}

TEST(Formats, WhateverIsDrawnMeetsEverythingElse) {
  std::vector<Format> all = test::formats();
  std::erase_if(all, [](const Format& f) { return !is_integer(f.scale); });  // only these have signs and blocks
  for (std::size_t k = 0; k < kDrawn; ++k)
    for (std::size_t n = k + 1; n < std::size(kProperties); ++n)
      EXPECT_EQ(missing(all, kProperties[k], kProperties[n]), 0U) << kProperties[k].name << ' ' << kProperties[n].name;
}

TEST(Formats, ThoseOfThePresets) {
  const std::vector<test::NamedFormat> all = test::preset_formats();
  EXPECT_EQ(all.size(), 13U);
  for (int bits : kBitWidths)
    EXPECT_TRUE(std::any_of(all.begin(), all.end(), [&](const auto& f) { return f.format.bits == bits; })) << bits;
}

}  // namespace
