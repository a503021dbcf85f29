// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>
#include <numeric>
#include <set>
#include <sinq/core/thread_pool.hpp>
#include <sinq/cuda/order.hpp>

#include "support/message_of.hpp"
#include "support/naive.hpp"

namespace {

using namespace sinq;
using namespace sinq::detail::cuda;

TEST(Order, EveryBitOfAUnitBelongsToOneBitOfOneCode) {
  for (int bits : kBitWidths)
    for (bool paired : {false, true}) {
      if (paired && bits > 4) continue;
      with_codes(bits, paired, [&](auto b, auto p) {
        std::set<std::vector<std::uint8_t>> units;  // each with one bit
        for (std::size_t at = 0; at < kStripRows * kUnitCols; ++at)
          for (int bit = 0; bit < bits; ++bit) {
            std::vector<std::uint8_t> codes(kStripRows * kUnitCols), back(codes.size()), unit(unit_bytes(b()));
            codes[at] = static_cast<std::uint8_t>(1 << bit);
            put_units<b(), p()>(codes.data(), 1, unit.data());
            EXPECT_EQ(std::accumulate(unit.begin(), unit.end(), 0,
                                      [](int n, std::uint8_t v) { return n + std::popcount(v); }),
                      1);
            EXPECT_TRUE(units.insert(unit).second);
            get_units<b(), p()>(unit.data(), 1, back.data());
            EXPECT_EQ(back, codes);
          }
      });
    }
}

TEST(Order, OperandsAreSubnormalHalves) {
  for (int bits : kBitWidths)
    for (int pair = 0; pair < 8; ++pair)
      for (int upper = 0; upper < 2; ++upper) {
        const int shift = operand_shift(bits, pair);
        EXPECT_LE(shift + bits, 10) << bits;  // 10 bits of mantissa and no exponent
        EXPECT_EQ(main_place(bits, pair, upper).bit - 8 * upper, shift);
        if (second_bits(bits) == 0) continue;
        const SecondPlace second = second_place(bits, pair, upper);
        EXPECT_EQ(second.bit - second.shift, shift + main_bits(bits));
        EXPECT_LT(second.word, bits);
      }
}

const Aux kAuxes[] = {Aux::f16, Aux::bf16, Aux::f32, Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8};

TEST(Order, ThereAndBackForEveryFormat) {
  std::mt19937 random(1);
  unsigned k = 0;
  for (int bits : kBitWidths)
    for (Levels levels : {Levels::uniform, Levels::symmetric, Levels::nf4, Levels::nf3, Levels::table})
      for (Aux scale : kAuxes)
        for (Aux zero : {Aux::none, Aux::f16, Aux::bf16, Aux::f32, Aux::u4, Aux::u5, Aux::u6, Aux::u7, Aux::u8}) {
          if ((levels == Levels::nf4 && bits != 4) || (levels == Levels::nf3 && bits != 3) ||
              (levels == Levels::table && bits > 4) || (levels == Levels::uniform && zero == Aux::none) ||
              (levels == Levels::symmetric && zero != Aux::none))
            continue;
          Format f{.bits = bits, .levels = levels, .scale = scale, .zero = zero};
          const std::int64_t groups[] = {16, 32, 48, 64, 80, 128, 256, kWholeRow};
          const Aux columns[] = {Aux::f16, Aux::bf16, Aux::f32, Aux::none};
          f.group_size = groups[++k % 8];
          f.tile = k / 8 % 2 ? Tile::square : Tile::stripe;
          f.col_scale = columns[k / 3 % 4];
          f.signed_scale = is_integer(scale) && k % 2;
          f.coarse_groups = is_integer(scale) ? k % 9 : 0;
          const QuantizedMatrix q = test::random_matrix(f, 1 + k * 7 % 50, 1 + k * 31 % 300, random);
          const KernelOrder order = kernel_order(f, q.table, q.rows, q.cols);
          ASSERT_EQ(from_kernel_order(f, q.table, order, to_kernel_order(q, order)), q)
              << "bits " << bits << " levels " << static_cast<int>(levels) << " group " << f.group_size;
        }
}

TEST(Order, ThreadsMakeNoDifference) {
  std::mt19937 random(3);
  const Format f{.bits = 3, .group_size = 16, .tile = Tile::square, .scale = Aux::u5, .zero = Aux::u6};
  const QuantizedMatrix q = test::random_matrix(f, 200, 300, random);
  const KernelOrder order = kernel_order(f, q.table, q.rows, q.cols);
  Eigen::ThreadPool pool(2);
  ThreadPoolExecutor threads(pool);
  const std::vector<std::uint8_t> memory = to_kernel_order(q, order, &threads);
  EXPECT_EQ(memory, to_kernel_order(q, order));
  EXPECT_EQ(from_kernel_order(f, q.table, order, memory, &threads), q);
}

TEST(Order, WhatALaneDecodesLiesTogether) {
  const auto weights = [](const Format& f) { return kernel_order(f, {}, 64, 1024).weights; };
  // Groups of one unit in a record, if they are integers and none begins with coarse scales.
  const Format small{.group_size = 16, .scale = Aux::u5, .zero = Aux::u6};
  EXPECT_EQ(weights(small).record_groups, 4);
  EXPECT_EQ(weights({.group_size = 32, .scale = Aux::u5, .zero = Aux::u6}).record_groups, 2);
  EXPECT_EQ(weights({.group_size = 64, .scale = Aux::u5, .zero = Aux::u6}).record_groups, 1);
  EXPECT_EQ(weights({.group_size = 48, .scale = Aux::u5, .zero = Aux::u6}).record_groups, 1);
  EXPECT_EQ(weights({.group_size = 16, .scale = Aux::u5, .zero = Aux::u6, .coarse_groups = 8}).record_groups, 4);
  EXPECT_EQ(weights({.group_size = 16, .scale = Aux::u5, .zero = Aux::u6, .coarse_groups = 6}).record_groups, 1);
  EXPECT_EQ(weights({.group_size = 16, .scale = Aux::u5, .zero = Aux::f16}).record_groups, 1);
  EXPECT_EQ(weights({.group_size = 16}).record_groups, 1);
  // Rows g and g + 8 of the four groups: 8 fields without a gap, which the next g's follow.
  const Weights w = weights(small);
  EXPECT_EQ(w.zeros_bit(), 16 * 4 * 5);
  for (int g = 0; g < 8; ++g)
    for (int k = 0; k < 8; ++k) EXPECT_EQ(w.field_bit(5, g + k % 2 * 8, k / 2), 5 * (8 * g + k));
}

TEST(Order, TakesNoMoreThanTheCanonicalForm) {
  // Where nothing needs padding, only the alignment of the three pieces is added.
  std::mt19937 random(2);
  for (int bits : kBitWidths)
    for (Aux aux : kAuxes) {
      const Format f{.bits = bits, .group_size = 32, .scale = aux, .zero = aux};
      const QuantizedMatrix q = test::random_matrix(f, 64, 512, random);
      EXPECT_LE(kernel_order(f, q.table, 64, 512).bytes, q.bytes() + 3 * 255);
    }
}

TEST(Order, TooLargeIsNamed) {
  EXPECT_EQ(test::message_of([] { (void)kernel_order({}, {}, 16, (1 << 19) + 1); }),
            "sinq: cols = 524289: the GPU kernels take up to 2^19");
  EXPECT_EQ(test::message_of([] { (void)kernel_order({}, {}, (1 << 26) + 1, 16); }),
            "sinq: rows = 67108865: the GPU kernels take up to 2^26");
}

}  // namespace
