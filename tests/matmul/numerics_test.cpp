// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <sinq/matmul.hpp>

#include "support/isas.hpp"
#include "support/naive.hpp"

// What becomes of activations that are zero, tiny, huge, infinite or not a number.

namespace {

using namespace sinq;
using test::random_matrix;
using test::RowMajor;

RowMajor<float> product(const QuantizedMatrix& q, const RowMajor<float>& x, Numerics numerics) {
  RowMajor<float> y(x.rows(), q.rows);
  matmul(pack(q), x, y, {.numerics = numerics});
  return y;
}

const Format kFormats[] = {
    {.bits = 3, .group_size = 16},
    {.bits = 3, .levels = Levels::table, .group_size = 16, .scale = Aux::u5, .zero = Aux::u4, .signed_scale = true},
    {.bits = 8, .group_size = kWholeRow},
    {.levels = Levels::nf4, .scale = Aux::u8, .zero = Aux::none},
    {.bits = 5, .levels = Levels::symmetric, .tile = Tile::square, .zero = Aux::none}};

TEST(Numerics, NothingIsMadeOfNothing) {
  std::mt19937 random(1);
  test::on_every_isa([&](Isa) {
    for (const Format& f : kFormats)
      for (Numerics numerics : {Numerics::exact, Numerics::fast}) {
        const QuantizedMatrix q = random_matrix(f, 33, 600, random);
        EXPECT_TRUE((product(q, RowMajor<float>::Zero(5, 600), numerics).array() == 0).all());
      }
  });
}

TEST(Numerics, NotANumberAndInfinityComeOut) {
  std::mt19937 random(2);
  test::on_every_isa([&](Isa isa) {
    for (const Format& f : kFormats)
      for (Numerics numerics : {Numerics::exact, Numerics::fast})
        for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
          const QuantizedMatrix q = random_matrix(f, 20, 300, random);
          RowMajor<float> x = RowMajor<float>::Ones(2, 300);
          x(0, 299) = bad;
          const RowMajor<float> y = product(q, x, numerics);
          for (int i = 0; i < 20; ++i) {
            EXPECT_FALSE(std::isfinite(y(0, i))) << name_of(isa);
            EXPECT_TRUE(std::isfinite(y(1, i))) << name_of(isa);
          }
        }
  });
}

/// The largest double is an infinite float, and floats times column scales may be.
TEST(Numerics, WhatIsBeyondFloatsIsInfinite) {
  std::mt19937 random(5);
  test::on_every_isa([&](Isa isa) {
    for (const Format& f : kFormats)
      for (Numerics numerics : {Numerics::exact, Numerics::fast})
        for (std::int64_t tokens : {1, 4, 128}) {
          const QuantizedMatrix q = random_matrix(f, 20, 300, random);
          RowMajor<double> x = RowMajor<double>::Ones(tokens, 300);
          x(0, 7) = 1e300;
          RowMajor<float> y(tokens, 20);
          matmul(pack(q), x, y, {.numerics = numerics});
          for (int i = 0; i < 20; ++i) EXPECT_FALSE(std::isfinite(y(0, i))) << name_of(isa);
          if (tokens > 1) {
            EXPECT_TRUE(y.bottomRows(tokens - 1).allFinite()) << name_of(isa);
          }
        }
  });
}

/// Below 2^-104 activations may count as zero: what that costs is what they contribute, at most.
TEST(Numerics, TinyActivationsCountOrAreZero) {
  std::mt19937 random(6);
  test::on_every_isa([&](Isa isa) {
    for (const Format& f : kFormats)
      for (Numerics numerics : {Numerics::exact, Numerics::fast})
        for (std::int64_t tokens : {1, 4, 128}) {
          const QuantizedMatrix q = random_matrix(f, 20, 300, random);
          const RowMajor<float> x = RowMajor<float>::Constant(tokens, 300, 1e-33f);
          const RowMajor<float> y = product(q, x, numerics);
          Eigen::MatrixXd magnitude;
          const auto expected = reference_matmul(q, MatrixView<const float>(x), &magnitude);
          // Twice: levels and zeros are added up by themselves, and rounded where they are not floats.
          EXPECT_TRUE(((y.cast<double>() - expected).array().abs() <= 2 * magnitude.array()).all()) << name_of(isa);
        }
  });
}

/// There are no bytes in it.
TEST(Numerics, PortableHasOneOnly) {
  std::mt19937 random(7);
  const Isa before = current_isa();
  force_isa(Isa::portable);
  for (const Format& f : kFormats) {
    const QuantizedMatrix q = random_matrix(f, 20, 300, random);
    const auto x = test::random_activations<float>(5, 300, random);
    EXPECT_EQ(product(q, x, Numerics::exact), product(q, x, Numerics::fast));
  }
  force_isa(before);
}

/// A power of two over all activations comes out as the same power of two, down to where floats end.
TEST(Numerics, ResultsScaleWithTheActivations) {
  std::mt19937 random(3);
  test::on_every_isa([&](Isa) {
    for (const Format& f : kFormats)
      for (Numerics numerics : {Numerics::exact, Numerics::fast}) {
        const QuantizedMatrix q = random_matrix(f, 20, 300, random);
        const RowMajor<float> x =
            RowMajor<float>::NullaryExpr(3, 300, [&] { return test::random_float(random, -1, 1); });
        const RowMajor<float> y = product(q, x, numerics);
        for (float factor : {0x1p-80f, 0x1p-20f, 0x1p30f, 0x1p80f})
          EXPECT_EQ(product(q, factor * x, numerics), factor * y) << factor;
      }
  });
}

/// Integers of three bytes hold activations of few bits without loss, whatever their mantissa: products and sums of
/// such numbers are exact. Mantissas around the one from which on the step doubles (127 * 65793 * 2^-22), too.
TEST(Numerics, ExactKeepsTheBitsOfEveryMagnitude) {
  std::mt19937 random(4);
  test::on_every_isa([&](Isa isa) {
    const Format f{
        .bits = 4, .levels = Levels::symmetric, .scale = Aux::f32, .zero = Aux::none, .col_scale = Aux::none};
    QuantizedMatrix q = random_matrix(f, 16, 64, random);
    for (std::int64_t i = 0; i < 16; ++i) detail::pack::write_float(Aux::f32, q.scale.data(), i, 1);
    for (float most : {1.0f, 1.9921567f, 1.9921569f, 1.99999988f, 0x1p-100f, 0x1.fp127f, 3.0e38f}) {
      RowMajor<float> x = RowMajor<float>::Zero(1, 64);
      x(0, 5) = most;
      x(0, 40) = most * -0x1p-21f;
      const RowMajor<float> y = product(q, x, Numerics::exact);
      for (int i = 0; i < 16; ++i) {
        const auto level = [&](std::int64_t j) { return test::Naive{q}.level(i, j); };
        // Both activations are multiples of half a step; the result is one float.
        const double exact = double{most} * (level(5) - level(40) * 0x1p-21);
        if (std::abs(exact) > 3.4e38) continue;
        EXPECT_NEAR(double{y(0, i)}, exact, 0x1.02p-23 * double{most} * 16 + 0x1p-24 * std::abs(exact))
            << most << ' ' << name_of(isa);
      }
    }
  });
}

}  // namespace
