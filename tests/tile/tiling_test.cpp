// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <functional>
#include <sinq/tile.hpp>
#include <string>

#include "support/message_of.hpp"

namespace {

using namespace sinq;
using test::message_of;

TEST(Tiling, StripeIsOnePanel) {
  const Tiling t = tiling(70, 300, 64, Tile::stripe);
  EXPECT_EQ(t.panels(), 1);
  EXPECT_EQ(t.panel_rows(0), 70);
  EXPECT_EQ(t.groups(), 5);
  EXPECT_EQ(t.group_cols(3), 64);
  EXPECT_EQ(t.group_begin(4), 256);
  EXPECT_EQ(t.group_cols(4), 44);  // short
  EXPECT_EQ(t.panel_of(69), 0);
}

TEST(Tiling, SquareHasALowLastPanel) {
  const Tiling t = tiling(70, 300, 32, Tile::square);
  EXPECT_EQ(t.panels(), 3);
  EXPECT_EQ(t.panel_begin(2), 64);
  EXPECT_EQ(t.panel_rows(1), 32);
  EXPECT_EQ(t.panel_rows(2), 6);
  EXPECT_EQ(t.panel_of(31), 0);
  EXPECT_EQ(t.panel_of(32), 1);
  EXPECT_EQ(t.panel_of(69), 2);
}

TEST(Tiling, WholeRow) {
  const Tiling stripe = tiling(5, 4097, kWholeRow, Tile::stripe);
  EXPECT_EQ(stripe.groups(), 1);
  EXPECT_EQ(stripe.group_cols(0), 4097);
  EXPECT_EQ(stripe.panels(), 1);
  const Tiling square = tiling(5, 3, kWholeRow, Tile::square);
  EXPECT_EQ(square.groups(), 1);
  EXPECT_EQ(square.panels(), 2);
  EXPECT_EQ(square.panel_rows(1), 2);
}

TEST(Tiling, GroupWiderThanTheMatrixIsOneShortGroup) {
  const Tiling t = tiling(2, 3, 256, Tile::square);
  EXPECT_EQ(t.groups(), 1);
  EXPECT_EQ(t.group_cols(0), 3);
  EXPECT_EQ(t.panels(), 1);
  EXPECT_EQ(t.panel_rows(0), 2);
}

// Every cell belongs to exactly one group and one panel, whatever the shape.
TEST(Tiling, GroupsAndPanelsCoverTheMatrixOnce) {
  for (std::int64_t size : {1, 15, 16, 17, 31, 32, 33, 64, 100, 255, 256, 257, 511, 512, 513})
    for (std::int64_t group : {0, 16, 32, 48, 64, 240, 256})
      for (Tile tile : {Tile::stripe, Tile::square}) {
        const Tiling t = tiling(size, 600 - size, group, tile);
        std::int64_t at = 0;
        for (std::int64_t g = 0; g < t.groups(); ++g) {
          ASSERT_EQ(t.group_begin(g), at);
          ASSERT_GE(t.group_cols(g), 1);
          at += t.group_cols(g);
        }
        ASSERT_EQ(at, t.cols);
        at = 0;
        for (std::int64_t p = 0; p < t.panels(); ++p) {
          ASSERT_EQ(t.panel_begin(p), at);
          ASSERT_GE(t.panel_rows(p), 1);
          ASSERT_EQ(t.panel_of(at), p);
          at += t.panel_rows(p);
          ASSERT_EQ(t.panel_of(at - 1), p);
        }
        ASSERT_EQ(at, t.rows);
      }
}

TEST(Tiling, LargestSizesDoNotOverflow) {
  constexpr std::int64_t kMost = 0x7fff'ffff;
  for (std::int64_t group : {kWholeRow, std::int64_t{16}, std::int64_t{256}}) {
    const Tiling t = tiling(kMost, kMost, group, Tile::square);
    const std::int64_t width = group == kWholeRow ? kMost : group;
    EXPECT_EQ(t.groups(), kMost / width + (kMost % width != 0));
    EXPECT_EQ(t.panels(), t.groups());
    EXPECT_EQ(t.group_begin(t.groups() - 1) + t.group_cols(t.groups() - 1), kMost);
    EXPECT_EQ(t.panel_begin(t.panels() - 1) + t.panel_rows(t.panels() - 1), kMost);
    EXPECT_EQ(t.panel_of(kMost - 1), t.panels() - 1);
  }
}

TEST(Tiling, WrongValuesAreNamedWithTheirLimits) {
  const auto message = [](std::int64_t rows, std::int64_t cols, std::int64_t group, Tile tile) {
    return message_of([&] { (void)tiling(rows, cols, group, tile); });
  };
  EXPECT_EQ(message(0, 1, 64, Tile::stripe), "sinq: rows = 0: allowed are 1 to 2^31 - 1");
  EXPECT_EQ(message(std::int64_t{1} << 31, 1, 64, Tile::stripe), "sinq: rows = 2147483648: allowed are 1 to 2^31 - 1");
  EXPECT_EQ(message(1, -5, 64, Tile::stripe), "sinq: cols = -5: allowed are 1 to 2^31 - 1");
  EXPECT_EQ(message(1, std::int64_t{1} << 31, 64, Tile::stripe), "sinq: cols = 2147483648: allowed are 1 to 2^31 - 1");
  for (std::int64_t group : {-16, -1, 1, 8, 15, 17, 40, 257, 272, 512})
    EXPECT_EQ(message(1, 1, group, Tile::stripe), "sinq: group_size = " + std::to_string(group) +
                                                      ": allowed are multiples of 16 from 16 to 256, and 0 for the "
                                                      "whole row");
  EXPECT_EQ(message(1, 1, 64, static_cast<Tile>(2)), "sinq: tile = 2: allowed are stripe and square");
  for (std::int64_t group = 16; group <= 256; group += 16)
    EXPECT_EQ(message(1, 1, group, Tile::square), "nothing was thrown");
}

}  // namespace
