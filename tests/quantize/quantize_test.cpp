// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <set>
#include <sinq/core/thread_pool.hpp>
#include <sinq/quantize.hpp>
#include <sinq/quantize/elementary.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "support/isas.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"
#include "weights.hpp"

namespace {

using namespace sinq;
using test::describe;
using test::message_of;
using test::Naive;
using test::random_float;
using test::random_normal;
using test::weights;
using test::weights_and_outliers;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

WeightView view(const Matrix& m) {
  return {m.data(), DType::f32, m.rows(), m.cols(), m.cols()};
}

/// Every rounding at each of its widths.
std::vector<QuantizeConfig> methods() {
  std::vector<QuantizeConfig> all;
  for (int bits : kBitWidths) {
    all.push_back({.bits = bits});
    all.push_back({.bits = bits, .refine = Refine::hqq});
    all.push_back({.bits = bits, .rounding = Rounding::symmetric});
  }
  all.push_back({.bits = 4, .rounding = Rounding::nf4});
  all.push_back({.bits = 3, .rounding = Rounding::nf3});
  return all;
}

/// How far a float auxiliary may be from its value, relative.
double rounding_of(Aux aux) {
  return aux == Aux::f16 ? 0x1p-11 : aux == Aux::bf16 ? 0x1p-8 : 0x1p-24;
}

/// A bound on |w - restored| for every weight, in two halves. With the position of a weight among the levels,
/// p = w / (col_scale scale) + zero from the *stored* auxiliaries:
///
/// nearest   the code is that of the nearest level, but for the rounding of p: a quotient of quotients and a sum in
///           float, each off by 2^-24 of what it yields (and by 2^-149 among subnormals);
/// range     p lies among the levels or at most `beyond` outside, so that the distance to the nearest level is half a
///           step, or `beyond`. How far outside: the stored scale is smaller than the chosen one by a share d (its
///           rounding), which moves the end of the range by d times the largest |x / scale|, which is less than
///           |zero| + levels; the zero was rounded to an integer, by 1/2, and to its stored type, by z.
void check(const Matrix& w, const QuantizedMatrix& q, const QuantizeConfig& c) {
  validate(q);
  const Naive n{q};
  const Format& f = q.format;
  const double levels = std::ldexp(1.0, f.bits);
  const auto restored = dequantize(q);
  for (std::int64_t g = 0; g < n.groups; ++g)
    for (std::int64_t i = 0; i < q.rows; ++i) {
      const double scale = n.scale(i, g);
      const double zero = n.zero(i, g);
      ASSERT_NE(scale, 0);
      const double span = f.levels == Levels::uniform ? levels : 2;
      const double grid = is_integer(f.zero) ? span / std::ldexp(1.0, bits_of(f.zero)) : 0;
      double d = rounding_of(f.scale);
      if (is_integer(f.scale)) {  // off by half of one of m steps
        const double coarse = test::float_at(q.coarse_scale, i, Aux::f16);
        const double m = std::abs(scale) / coarse * std::ldexp(1.0, bits_of(f.scale) - (f.signed_scale ? 1 : 0));
        d = 0.5 / m + 1e-6;
      }
      const double reach = std::abs(zero) + (f.levels == Levels::uniform     ? levels
                                             : f.levels == Levels::symmetric ? levels / 2
                                                                             : 1);
      const double z = is_float(f.zero) ? rounding_of(f.zero) * std::abs(zero) : grid;
      const double gap = f.levels == Levels::nf4 ? 1 - 0.6961 : f.levels == Levels::nf3 ? 1 - 0.535 : 1;
      double beyond = (d + 8 * 0x1p-24) * reach + z;
      if (f.levels == Levels::uniform) beyond += 0.5;
      if (f.levels == Levels::symmetric) beyond += 1;  // no level faces the outermost one
      for (std::int64_t j = g * n.width; j < std::min((g + 1) * n.width, q.cols); ++j) {
        const double share = double{w(i, j)} / (n.col_scale(i, j) * scale);
        const double position = share + zero;
        const double slack = 2 * 0x1p-24 * (2 * std::abs(share) + std::abs(position)) +
                             0x1p-149 / std::abs(scale) * (1 + 1 / std::abs(n.col_scale(i, j)));
        double nearest = INFINITY;
        if (f.levels <= Levels::symmetric) {
          const double low = f.levels == Levels::uniform ? 0 : -levels / 2;
          nearest = std::abs(position - std::clamp(std::nearbyint(position), low, low + levels - 1));
        } else {
          for (int k = 0; k < 1 << f.bits; ++k) {
            const auto at = static_cast<std::size_t>(k);
            nearest = std::min(nearest, std::abs(position - double{f.levels == Levels::nf4 ? kNf4[at] : kNf3[at]}));
          }
        }
        const double distance = std::abs(position - n.level(i, j));
        ASSERT_LE(distance, nearest + slack) << describe(c) << ": not the nearest level at " << i << ", " << j;
        if (c.refine == Refine::none) {
          ASSERT_LE(distance, std::max(gap / 2, beyond) + slack)
              << describe(c) << ": range missed at " << i << ", " << j;
        }
        // restored: three roundings of its largest operand
        const double size = (std::abs(n.level(i, j)) + std::abs(zero)) * std::abs(scale) * n.col_scale(i, j);
        ASSERT_NEAR(double{restored(i, j)}, double{w(i, j)},
                    (distance + slack) * std::abs(scale) * n.col_scale(i, j) + 4 * 0x1p-24 * size + 0x1p-148)
            << describe(c) << " at " << i << ", " << j;
      }
    }
}

bool power_of_two(float x) {
  int exponent = 0;
  return std::frexp(x, &exponent) == 0.5f;
}

double relative_error(const Matrix& w, const QuantizeConfig& c) {
  return measure(quantize(w, c), view(w)).relative_error;
}

// --- every combination --------------------------------------------------------------------------------------------

struct Shape {
  std::int64_t rows, cols, group;
};
class ShapeTest : public testing::TestWithParam<Shape> {};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.rows << 'x' << s.cols << " group " << s.group;
}

TEST_P(ShapeTest, EveryWeightIsRestoredWithinItsBound) {
  const Shape s = GetParam();
  const Matrix w = weights_and_outliers(s.rows, s.cols);
  const Aux auxes[][3] = {{Aux::f16, Aux::f16, Aux::f16}, {Aux::bf16, Aux::bf16, Aux::bf16},
                          {Aux::f32, Aux::f32, Aux::f32}, {Aux::u8, Aux::u8, Aux::f16},
                          {Aux::u6, Aux::u5, Aux::f16},   {Aux::u4, Aux::u4, Aux::f32},
                          {Aux::u7, Aux::f16, Aux::bf16}, {Aux::f16, Aux::u7, Aux::f16}};
  for (QuantizeConfig c : methods())
    for (Balancing balance : {Balancing::sinkhorn, Balancing::none})
      for (Tile tile : {Tile::stripe, Tile::square}) {
        if (balance == Balancing::none && tile == Tile::square) continue;
        for (const auto& aux : auxes) {
          c.group_size = s.group;
          c.balance = balance;
          c.tile = tile;
          c.scale = aux[0];
          c.zero = aux[1];
          c.col_scale = aux[2];
          QuantizeReport report;
          const QuantizedMatrix q = quantize(w, c, {.report = &report});
          check(w, q, c);
          if (HasFatalFailure()) return;
          EXPECT_EQ(q.format.bits, c.bits);
          EXPECT_EQ(q.format.tile, c.tile);
          EXPECT_EQ(q.format.group_size, c.group_size);
          EXPECT_EQ(q.format.scale, report.widened ? Aux::f32 : c.scale);
          EXPECT_EQ(q.format.zero, c.rounding == Rounding::symmetric ? Aux::none : c.zero);
          EXPECT_EQ(q.format.col_scale, balance == Balancing::none ? Aux::none : c.col_scale);
        }
      }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ShapeTest,
                         testing::Values(Shape{1, 1, 64}, Shape{1, 40, 16}, Shape{40, 1, 64}, Shape{3, 17, 16},
                                         Shape{70, 300, 64}, Shape{20, 65, kWholeRow}, Shape{5, 30, 256},
                                         Shape{33, 113, 48}));

TEST(Quantize, WholeRowOfAThousandWeights) {
  const Matrix w = weights_and_outliers(3, 1000);
  for (QuantizeConfig c : methods()) {
    c.group_size = kWholeRow;
    check(w, quantize(w, c), c);
  }
}

TEST(Quantize, CoarseScalesOfSeveralGroups) {
  const Matrix w = weights_and_outliers(9, 16 * 7 + 3);
  for (Rounding rounding : {Rounding::uniform, Rounding::symmetric})
    for (std::int64_t coarse : {0, 1, 2, 3, 8, 100}) {
      const QuantizeConfig c{
          .group_size = 16, .rounding = rounding, .scale = Aux::u8, .zero = Aux::u8, .coarse_groups = coarse};
      const QuantizedMatrix q = quantize(w, c);
      validate(q);
      EXPECT_EQ(q.format.coarse_groups, coarse);
      // Against f32 scales, 8 bits of a block lose at most 1/2 of 255 steps where scales are alike.
      EXPECT_LT(measure(q, view(w)).relative_error, 1.02 * relative_error(w, {.group_size = 16, .rounding = rounding}));
    }
}

TEST(Quantize, SymmetricUsesEveryLevel) {
  const Matrix w = weights_and_outliers(64, 256);
  for (int bits : kBitWidths)
    for (Aux aux : {Aux::f16, Aux::u8}) {
      const QuantizedMatrix q = quantize(w, {.bits = bits, .rounding = Rounding::symmetric, .scale = aux});
      const Naive n{q};
      std::vector<int> used(static_cast<std::size_t>(1) << bits);
      for (std::int64_t i = 0; i < 64; ++i)
        for (std::int64_t g = 0; g < 4; ++g) {
          int least = 255;
          for (std::int64_t j = 64 * g; j < 64 * g + 64; ++j) {
            ++used[static_cast<std::size_t>(n.code(i, j))];
            least = std::min(least, n.code(i, j));
          }
          if (aux == Aux::f16) {
            EXPECT_EQ(least, 0) << "the outermost level of every group";
          }
        }
      for (int count : used) EXPECT_GT(count, 0) << bits << " bits";
    }
}

TEST(Quantize, HqqLowersTheNormItMinimises) {
  const Matrix w = weights_and_outliers(64, 256, 3);
  for (int bits : {3, 4, 5}) {  // not at 2 bits: the kept zero is one update past the error it was kept for
    const auto norm = [&](Refine refine) {
      const QuantizeConfig c{
          .bits = bits, .refine = refine, .balance = Balancing::none, .scale = Aux::f32, .zero = Aux::f32};
      return (dequantize(quantize(w, c)) - w).cast<double>().array().abs().pow(0.7).sum();
    };
    EXPECT_LT(norm(Refine::hqq), norm(Refine::none)) << bits;
  }
}

TEST(Quantize, BalancingHelpsWhereRowsAndColumnsAreUneven) {
  const Matrix w = weights_and_outliers(128, 256, 4);
  for (QuantizeConfig c : methods()) {
    QuantizeConfig plain = c;
    plain.balance = Balancing::none;
    EXPECT_LT(relative_error(w, c), relative_error(w, plain)) << describe(c);
  }
}

TEST(Quantize, MoreBitsLoseLess) {
  const Matrix w = weights_and_outliers(64, 128, 5);
  for (Rounding rounding : {Rounding::uniform, Rounding::symmetric}) {
    double last = 1;
    for (int bits : kBitWidths) {
      const double error = relative_error(w, {.bits = bits, .rounding = rounding});
      EXPECT_LT(error, 0.7 * last) << bits;
      last = error;
    }
  }
}

/// Gaussian weights at 2 to 4 bits, groups of 64: 8-bit auxiliaries save a quarter of a bit per weight and lose less
/// than 1 % more. (A scale is off by 1/2 of about 200 steps, a zero by 1/32 of a step, and the codes know.)
TEST(Quantize, EightBitAuxiliariesLoseLittle) {
  std::mt19937 random(6);
  const Matrix w = Matrix::NullaryExpr(128, 512, [&] { return 0.02f * random_normal(random); });
  for (QuantizeConfig c : methods()) {
    if (c.bits > 4) continue;
    const double wide = relative_error(w, c);
    c.scale = c.zero = Aux::u8;
    EXPECT_LT(relative_error(w, c) / wide, 1.01) << describe(c);
  }
}

// --- weights of all sizes -----------------------------------------------------------------------------------------

// A power of two changes the exponent of scales alone, as long as nothing is absolute: so without balancing.
TEST(Quantize, SizeOfTheWeightsDoesNotMatter) {
  const Matrix w = weights_and_outliers(20, 100, 7);
  for (QuantizeConfig c : methods())
    for (Balancing balance : {Balancing::none, Balancing::sinkhorn}) {
      c.balance = balance;
      c.scale = Aux::f32;
      const QuantizedMatrix one = quantize(w, c);
      const double error = measure(one, view(w)).relative_error;
      QuantizeReport report;
      for (float size : {0x1p-110f, 0x1p-66f, 0x1p-20f, 0x1p40f, 0x1p100f, 1e-6f, 1e-30f, 1e30f}) {
        const Matrix scaled = w * size;
        for (Aux aux : {Aux::f16, Aux::bf16, Aux::f32}) {
          c.scale = aux;
          const QuantizedMatrix q = quantize(scaled, c, {.report = &report});
          EXPECT_EQ(report.widened, aux == Aux::f16) << describe(c) << " size " << size;
          EXPECT_EQ(q.format.scale, aux == Aux::f16 ? Aux::f32 : aux);
          check(scaled, q, c);
          if (HasFatalFailure()) return;
          // HQQ's shrinking and the clamps of balancing are absolute, as in the reference: without their help an error
          // is larger, but by no more than they gain. bf16 adds 2^-9 of the scale.
          const bool absolute = balance == Balancing::sinkhorn || c.refine == Refine::hqq;
          EXPECT_LE(measure(q, view(scaled)).relative_error, error * (absolute ? 2.0 : 1.05) + 0x1p-9)
              << describe(c) << " size " << size;
          if (!absolute && aux != Aux::bf16 && power_of_two(size)) {
            EXPECT_EQ(q.codes, one.codes) << describe(c) << " size " << size;
          }
        }
      }
    }
}

TEST(Quantize, SubnormalWeights) {
  std::mt19937 random(8);
  for (int span : {1, 2, 7, 100, 20000}) {  // in units of the smallest float
    const Matrix w = Matrix::NullaryExpr(7, 50, [&] {
      return std::ldexp(std::nearbyint(random_float(random, -1, 1) * static_cast<float>(span)), -149);
    });
    for (QuantizeConfig c : methods())
      for (Balancing balance : {Balancing::none, Balancing::sinkhorn})
        for (Aux aux : {Aux::f16, Aux::bf16, Aux::f32}) {
          c.balance = balance;
          c.scale = aux;
          const QuantizedMatrix q = quantize(w, c);
          EXPECT_EQ(q.format.scale, Aux::f32);
          validate(q);
          const auto restored = dequantize(q);
          // The step is the range over the levels, rounded to whole units, at least 1: half a unit per level may be cut
          // off the range. Symmetric rounding cuts one step more, HQQ moves the zero by about one.
          const double levels = std::ldexp(1, c.bits) - 1;
          const double step = std::max(1.0, 2 * span / levels);
          const double bound =
              c.rounding >= Rounding::nf4 ? 0.5 * span : 2 * step + 2 + (2 * span > levels ? levels / 2 : 0);
          EXPECT_LE((restored - w).cwiseAbs().maxCoeff() / 0x1p-149f, bound) << describe(c) << " span " << span;
        }
  }
}

TEST(Quantize, ConstantGroups) {
  for (float value : {1e-45f, 1e-39f, -1e-30f, 1e-6f, -3e-5f, 0.25f, -0.3f, 1.0f, 700.0f, -7e4f, 1e30f, -1e36f})
    for (QuantizeConfig c : methods())
      for (Balancing balance : {Balancing::none, Balancing::sinkhorn})
        for (Aux aux : {Aux::f16, Aux::bf16, Aux::f32, Aux::u8}) {
          c.balance = balance;
          c.scale = c.zero = aux;
          const Matrix w = Matrix::Constant(5, 70, value);
          const float size = std::abs(value);
          if (aux == Aux::u8 && (size < 1e-5f || size > 65504.0f)) continue;  // refused, see below
          const QuantizedMatrix q = quantize(w, c);
          validate(q);
          // The value is one step, or 2^b - 1 of them, or (NF) the distance of the mean: off by the rounding of scale
          // and zero, 2^-8 each; an integer zero of a codebook ends at 1 - 2/256. Subnormals by half a unit per factor.
          const double bound =
              (2 * 0x1p-8 + (aux == Aux::u8 && c.rounding >= Rounding::nf4 ? 2 * 0x1p-8 : 0)) * double{size} + 0x1p-149;
          const auto restored = dequantize(q);
          EXPECT_LE(double{(restored - w).cwiseAbs().maxCoeff()}, bound) << describe(c) << " value " << value;
        }
}

TEST(Quantize, GroupsFarFromZero) {
  std::mt19937 random(9);
  for (float offset : {1.0f, -40.0f, 3000.0f}) {
    const Matrix w = Matrix::NullaryExpr(9, 70, [&] { return offset + 0.02f * random_normal(random); });
    for (QuantizeConfig c : methods())
      for (Balancing balance : {Balancing::none, Balancing::sinkhorn})
        for (Aux aux : {Aux::f16, Aux::bf16, Aux::f32, Aux::u8}) {
          c.balance = balance;
          c.scale = c.zero = aux;
          check(w, quantize(w, c), c);
          if (HasFatalFailure()) return;
        }
  }
}

TEST(Quantize, ZeroRowsAndColumnsStayZero) {
  Matrix w = weights_and_outliers(40, 150, 10);
  w.row(0).setZero();
  w.row(39).setZero();
  w.row(7).segment(64, 64).setZero();
  w.col(33).setZero();
  w.col(149).setZero();
  for (QuantizeConfig c : methods())
    for (Tile tile : {Tile::stripe, Tile::square})
      for (Aux aux : {Aux::f16, Aux::bf16, Aux::f32, Aux::u8, Aux::u6}) {
        c.tile = tile;
        c.scale = c.zero = aux;
        const QuantizedMatrix q = quantize(w, c);
        check(w, q, c);
        const auto restored = dequantize(q);
        for (int i : {0, 39}) EXPECT_TRUE((restored.row(i).array() == 0).all()) << describe(c);
        EXPECT_TRUE((restored.row(7).segment(64, 64).array() == 0).all()) << describe(c);
        // A zero is a level where the zero is an integer or absent.
        const bool exact =
            c.rounding == Rounding::symmetric ||
            (c.rounding == Rounding::uniform && c.refine == Refine::none && (aux != Aux::u6 || c.bits <= 6));
        if (!exact) continue;
        for (int j : {33, 149}) EXPECT_TRUE((restored.col(j).array() == 0).all()) << describe(c);
      }
  for (QuantizeConfig c : methods())
    for (Aux aux : {Aux::f16, Aux::u8}) {
      c.scale = c.zero = aux;
      QuantizeReport report;
      const QuantizedMatrix q = quantize(Matrix::Zero(3, 70), c, {.report = &report});
      EXPECT_TRUE((dequantize(q).array() == 0).all());
      EXPECT_FALSE(report.widened);
    }
}

// A group of zeros beside tiny ones does not take the row's resolution away.
TEST(Quantize, ZeroGroupsDoNotSetTheCoarseScale) {
  Matrix w = 1e-5f * weights_and_outliers(4, 256, 11).array().sign().matrix();
  const double before = relative_error(w, {.scale = Aux::u8, .zero = Aux::u8});
  w.leftCols(64).setZero();
  EXPECT_LT(relative_error(w, {.scale = Aux::u8, .zero = Aux::u8}), before + 1e-3);
}

TEST(Quantize, ScalesBeyondACoarseF16AreRefused) {
  const Matrix w = weights_and_outliers(3, 64, 12);
  const QuantizeConfig c{.scale = Aux::u8, .zero = Aux::u8};
  const std::string message = message_of([&] { (void)quantize(w * 1e9f, c); });
  EXPECT_EQ(message.find("sinq: row 0 has a coarse scale of "), 0u) << message;
  EXPECT_NE(message.find("use scale = f32"), std::string::npos) << message;
  EXPECT_NO_THROW((void)quantize(w * 1e-3f, c));
}

TEST(Quantize, ScalesOfOneRowWidenTheMatrix) {
  Matrix w = weights_and_outliers(10, 64, 13);
  QuantizeReport report;
  (void)quantize(w, {}, {.report = &report});
  EXPECT_FALSE(report.widened);
  w.row(6) *= 1e9f;
  for (Aux aux : {Aux::f16, Aux::bf16, Aux::f32}) {
    const QuantizedMatrix q = quantize(w, {.scale = aux}, {.report = &report});
    EXPECT_EQ(report.widened, aux == Aux::f16);
    EXPECT_EQ(q.format.scale, aux == Aux::bf16 ? Aux::bf16 : Aux::f32);
    EXPECT_TRUE(dequantize(q).allFinite());
  }
}

// --- what is refused ----------------------------------------------------------------------------------------------

template <class T>
class ElementTest : public testing::Test {};
using Elements = testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(ElementTest, Elements);

TYPED_TEST(ElementTest, NanAndInfinityAreNamedWhateverTheThreads) {
  using Typed = Eigen::Matrix<TypeParam, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::ThreadPool pool(3);
  ThreadPoolExecutor threads(pool);
  for (float bad : {NAN, INFINITY, -INFINITY})
    for (Executor* executor : {static_cast<Executor*>(nullptr), static_cast<Executor*>(&threads)})
      for (int round = 0; round < 3; ++round) {
        Typed w = weights_and_outliers(130, 300, 14).template cast<TypeParam>();
        w(129, 100) = static_cast<TypeParam>(bad);  // tile 1, found first by row
        w(70, 64) = static_cast<TypeParam>(bad);
        w(2, 280) = static_cast<TypeParam>(bad);  // tile 4
        const std::string expected = std::string("sinq: weights(70, 64) = ") +
                                     (std::isnan(bad) ? "nan"
                                      : bad > 0       ? "inf"
                                                      : "-inf") +
                                     ": must be finite (as float)";
        EXPECT_EQ(message_of([&] { (void)quantize(w, {}, {.executor = executor}); }), expected);
      }
}

TYPED_TEST(ElementTest, IsQuantizedAsItsFloats) {
  using Typed = Eigen::Matrix<TypeParam, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Typed w = weights_and_outliers(33, 100, 15).template cast<TypeParam>();
  const Matrix& floats = w.template cast<float>();  // `w` itself where it is of floats
  EXPECT_EQ(quantize(w), quantize(floats));
  EXPECT_EQ(quantize(WeightView(w.data(), DTypeOf<TypeParam>::value, 33, 100)), quantize(floats));
}

TEST(Quantize, WeightsBeyondTheLimitAreNamed) {
  Matrix w = Matrix::Constant(3, 40, 1);
  w(2, 33) = 2e36f;
  EXPECT_EQ(message_of([&] { (void)quantize(w); }), "sinq: weights(2, 33) = 2e+36: must be below 2^120 in magnitude");
  Eigen::MatrixXd d = Eigen::MatrixXd::Constant(3, 40, 1);
  d(1, 1) = 1e300;
  EXPECT_EQ(message_of([&] { (void)quantize(d); }), "sinq: weights(1, 1) = inf: must be finite (as float)");
  for (float largest : {0x1.fffffep119f, -0x1.fffffep119f}) {  // the largest allowed is restored, never as infinity
    w(2, 33) = largest;
    for (const QuantizeConfig& c : methods()) EXPECT_TRUE(dequantize(quantize(w, c)).allFinite()) << describe(c);
  }
}

TEST(Quantize, WrongConfigurationsAreNamed) {
  const Matrix w = Matrix::Ones(2, 20);
  const auto message = [&](const QuantizeConfig& c) { return message_of([&] { (void)quantize(w, c); }); };
  EXPECT_EQ(message({}), "nothing was thrown");
  EXPECT_EQ(message({.bits = 7}), "sinq: bits = 7: allowed are 2, 3, 4, 5, 6, 8");
  EXPECT_EQ(message({.group_size = 24}),
            "sinq: group_size = 24: allowed are multiples of 16 from 16 to 256, and 0 for the whole row");
  EXPECT_EQ(message({.tile = static_cast<Tile>(9)}), "sinq: tile = 9: allowed are stripe and square");
  EXPECT_EQ(message({.rounding = static_cast<Rounding>(5)}),
            "sinq: rounding = 5: allowed are uniform, symmetric, nf4, nf3 and table");
  EXPECT_EQ(message({.refine = static_cast<Refine>(3)}), "sinq: refine = 3: allowed are none, hqq and fit");
  EXPECT_EQ(message({.rounding = Rounding::symmetric, .refine = Refine::hqq}),
            "sinq: refine = hqq: needs uniform rounding");
  EXPECT_EQ(message({.balance = static_cast<Balancing>(2)}), "sinq: balance = 2: allowed are sinkhorn and none");
  EXPECT_EQ(message({.bits = 3, .rounding = Rounding::nf4}), "sinq: bits = 3: NF4 has 4 bits");
  EXPECT_EQ(message({.bits = 4, .rounding = Rounding::nf3}), "sinq: bits = 4: NF3 has 3 bits");
  EXPECT_EQ(message({.scale = Aux::none}), "sinq: scale = none: allowed are u4 to u8, f16, bf16 and f32");
  EXPECT_EQ(message({.zero = Aux::none}),
            "sinq: zero = none: only symmetric rounding, and codebooks with refine = fit, have no zero");
  EXPECT_EQ(message({.rounding = Rounding::symmetric, .zero = Aux::none}), "nothing was thrown");
  EXPECT_EQ(message({.bits = -1, .rounding = Rounding::table, .refine = Refine::fit, .table = {-1, 0, 1, 2}}),
            "sinq: bits = -1: a level table has 2, 3 or 4 bits");
  EXPECT_EQ(message({.col_scale = Aux::u8}), "sinq: col_scale = u8: allowed are f16, bf16 and f32");
  EXPECT_EQ(message({.coarse_groups = 2}),
            "sinq: coarse_groups = 2: 0 to 2^31 - 1, and 0 unless the scale is an integer");
  EXPECT_EQ(message({.hqq = {.iterations = 0}}), "sinq: hqq.iterations = 0: allowed are 1 to 1000");
  EXPECT_EQ(message({.hqq = {.p = 0}}), "sinq: hqq.p = 0: must be in (0, 1]");
  EXPECT_EQ(message({.hqq = {.p = 1.5}}), "sinq: hqq.p = 1.5: must be in (0, 1]");
  EXPECT_EQ(message({.hqq = {.beta = 0}}), "sinq: hqq.beta = 0: must be in (0, 1e30]");
  EXPECT_EQ(message({.kurtosis_gate = -1}), "sinq: kurtosis_gate = -1: must be at least 0");
  EXPECT_EQ(message({.sinkhorn = {.iterations = -1}}), "sinq: sinkhorn.iterations = -1: allowed are 0 to 1000");
  EXPECT_EQ(message({.sinkhorn = {.max_factor = 1e6}}),
            "sinq: sinkhorn.max_factor = 1e+06: a col_scale in f16 allows at most 65504");
  EXPECT_EQ(message({.sinkhorn = {.min_factor = 1e-6}}),
            "sinq: sinkhorn.min_factor = 1e-06: a col_scale in f16 allows at least 2^-14");
  EXPECT_EQ(message({.col_scale = Aux::bf16, .sinkhorn = {.min_factor = 1e-6, .max_factor = 1e6}}),
            "nothing was thrown");
  // Of a second axis that there is not, nothing is asked.
  for (Aux ignored : {Aux::none, Aux::u8, static_cast<Aux>(99)}) {
    const QuantizeConfig c{.balance = Balancing::none, .col_scale = ignored};
    EXPECT_EQ(message(c), "nothing was thrown");
    EXPECT_EQ(quantize(w, c), quantize(w, {.balance = Balancing::none}));
  }
  EXPECT_EQ(message({.balance = Balancing::none, .sinkhorn = {.min_factor = 1e-6, .max_factor = 1e6}}),
            "nothing was thrown");
  EXPECT_EQ(message({.balance = Balancing::none, .calibration = Calibration::awq, .col_scale = Aux::none}),
            "sinq: col_scale = none: allowed are f16, bf16 and f32");
  EXPECT_EQ(message_of([] { (void)quantize(WeightView(nullptr, DType::f32, 2, 2)); }),
            "sinq: weights.data = null: must not be null");
  EXPECT_EQ(message_of([&] { (void)quantize(WeightView(w.data(), DType::f32, 2, 20, 19)); }),
            "sinq: weights.stride = 19: must be at least weights.cols");
  EXPECT_EQ(message_of([] { (void)quantize(WeightView{}); }), "sinq: rows = 0: allowed are 1 to 2^31 - 1");
}

/// Of which scratch memory has no piece for any worker.
class NoWorkers final : public Executor {
 public:
  [[nodiscard]] int width() const noexcept override { return 0; }
  void run(std::int64_t count, TaskRef task) override { SerialExecutor().run(count, task); }
};

TEST(Quantize, ExecutorsWithoutWorkersAreNamed) {
  const Matrix w = weights(20, 40);
  NoWorkers none;
  const std::string expected = "sinq: executor.width() = 0: must be positive";
  for (const QuantizeConfig& c : {QuantizeConfig{}, preset(4.5), QuantizeConfig{.refine = Refine::hqq}})
    EXPECT_EQ(message_of([&] { (void)quantize(w, c, {.executor = &none}); }), expected);
  const QuantizedMatrix q = quantize(w);
  EXPECT_EQ(message_of([&] { (void)dequantize(q, &none); }), expected);
}

// --- the same bits ------------------------------------------------------------------------------------------------

/// Runs the tasks backwards, each on another worker: a legal executor, if an odd one.
class BackwardExecutor final : public Executor {
 public:
  [[nodiscard]] int width() const noexcept override { return 7; }
  void run(std::int64_t count, TaskRef task) override {
    for (std::int64_t i = count; i-- > 0;) task(i, static_cast<int>(i % 7));
  }
};

TEST(Determinism, WhateverTheThreadsAndTheInstructionSet) {
  const Matrix w = weights_and_outliers(70, 300, 16);
  Eigen::ThreadPool one(1), two(2), six(6);
  ThreadPoolExecutor width2(one), width3(two), width7(six);
  SerialExecutor serial;
  BackwardExecutor backward;
  for (QuantizeConfig c : methods())
    for (Aux aux : {Aux::f16, Aux::u6}) {
      c.scale = c.zero = aux;
      c.tile = c.bits % 2 ? Tile::square : Tile::stripe;
      const QuantizedMatrix expected = quantize(w, c);
      QuantizeReport first, report;
      (void)quantize(w, c, {.report = &first});
      test::on_every_isa([&](Isa isa) {
        for (Executor* e : std::initializer_list<Executor*>{&serial, &width2, &width3, &width7, &backward}) {
          EXPECT_EQ(quantize(w, c, {.executor = e, .report = &report}), expected) << name_of(isa) << ' ' << describe(c);
          EXPECT_EQ(report.imbalance_before, first.imbalance_before);
          EXPECT_EQ(report.imbalance_after, first.imbalance_after);
        }
      });
    }
}

/// What one of the programs of tests/quantize/flags prints, and its exit code.
std::pair<std::string, int> run(const std::string& name, const char* argument, const std::string& emulator = "") {
  const std::string command = emulator + ' ' + SINQ_BITS_PROGRAM + name + ' ' + argument;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return {"cannot run " + command, -1};
  std::string text;
  char buffer[4096];
  for (std::size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, n);
  return {text, pclose(pipe)};
}

TEST(Determinism, WhateverTheCompilersFlags) {
#if defined(__x86_64__)
  if (!detail::core::supported(Isa::avx2)) GTEST_SKIP() << "this machine cannot run what -mavx2 -mfma makes";
#endif
  const auto plain = run("plain", "bits");
  EXPECT_EQ(plain.second, 0);
  EXPECT_GT(plain.first.size(), 2000u);
  EXPECT_EQ(run("fused", "bits"), plain);
}

/// Another processor and another compiler, which fuses products and sums wherever the code lets it.
TEST(Determinism, TheSameBitsOnArm) {
#if defined(SINQ_AARCH64_EMULATOR)
  const auto lines = [](const std::pair<std::string, int>& output) {
    EXPECT_EQ(output.second, 0);
    std::istringstream in(output.first);
    std::set<std::string> result;  // this machine's instruction sets print the same lines again
    for (std::string line; std::getline(in, line);) result.insert(line);
    return result;
  };
  const std::set<std::string> here = lines(run("plain", "bits"));
  EXPECT_GT(here.size(), 100u);
  EXPECT_EQ(lines(run("aarch64", "bits", SINQ_AARCH64_EMULATOR)), here);
#else
  GTEST_SKIP() << "*** no aarch64-linux-gnu-g++ and qemu-aarch64 here (Debian: g++-aarch64-linux-gnu, qemu-user) ***";
#endif
}

TEST(Determinism, NansAreFoundUnderFastMath) {
  EXPECT_EQ(run("plain", "nan").second, 0);
  EXPECT_EQ(run("fast_math", "nan").second, 0);
}

TEST(Quantize, EigenInputs) {
  const Matrix w = weights_and_outliers(37, 90, 17);
  const QuantizedMatrix expected = quantize(w);
  const Eigen::MatrixXf column_major = w;
  EXPECT_EQ(quantize(column_major), expected);
  EXPECT_EQ(quantize(w * 2.0f - w), expected);  // an expression; exact
  EXPECT_EQ(quantize(column_major.transpose().transpose()), expected);
  Matrix wide = Matrix::Constant(40, 200, NAN);
  wide.block(2, 55, 37, 90) = w;
  EXPECT_EQ(quantize(wide.block(2, 55, 37, 90)), expected);
  EXPECT_EQ(quantize(Eigen::Ref<const Matrix, 0, Eigen::OuterStride<>>(wide.block(2, 55, 37, 90))), expected);
  EXPECT_EQ(quantize(MatrixView<const float>(&wide(2, 55), 37, 90, 200)), expected);
  std::vector<std::byte> bytes(37 * 90 * 4 + 3);
  std::memcpy(bytes.data() + 3, w.data(), bytes.size() - 3);
  EXPECT_EQ(quantize(WeightView(bytes.data() + 3, DType::f32, 37, 90)), expected);
  const Eigen::VectorXf column = w.col(0);
  EXPECT_EQ(quantize(column).cols, 1);
  const Eigen::RowVectorXf row = w.row(0);
  EXPECT_EQ(quantize(row), quantize(w.topRows(1)));
}

// --- progress, report, gate ---------------------------------------------------------------------------------------

TEST(Progress, RisesToOneOnTheCallingThread) {
  const Matrix w = weights_and_outliers(50, 200, 18);
  Eigen::ThreadPool pool(3);
  ThreadPoolExecutor threads(pool);
  BackwardExecutor backward;
  for (Executor* e : std::initializer_list<Executor*>{nullptr, &threads, &backward}) {
    double last = 0;
    int calls = 0;
    const auto caller = std::this_thread::get_id();
    const auto q = quantize(w, {}, {.executor = e, .progress = [&](double share) {
                                      EXPECT_EQ(std::this_thread::get_id(), caller);
                                      EXPECT_GT(share, last);
                                      last = share;
                                      ++calls;
                                      return true;
                                    }});
    EXPECT_EQ(last, 1);
    EXPECT_EQ(q, quantize(w, QuantizeConfig{}));
    if (e != &threads) {
      EXPECT_EQ(calls, 50 + 4);
    }
  }
}

TEST(Progress, CancelsWhereverItIsAsked) {
  const Matrix w = weights_and_outliers(50, 200, 19);
  Eigen::ThreadPool pool(3);
  ThreadPoolExecutor threads(pool);
  for (Executor* e : std::initializer_list<Executor*>{nullptr, &threads})
    for (double when : {0.0, 0.05, 0.5, 0.9, 1.0}) {
      int after = 0;
      bool asked = false;
      EXPECT_THROW((void)quantize(w, {},
                                  {.executor = e,
                                   .progress =
                                       [&](double share) {
                                         after += asked;
                                         asked |= share >= when;
                                         return !asked;
                                       }}),
                   Cancelled);
      EXPECT_EQ(after, 0) << "asked again after it had cancelled";
    }
}

/// Runs everything on a thread of its own, while the calling one waits: as a pool does that gives it no work.
class ElsewhereExecutor final : public Executor {
 public:
  [[nodiscard]] int width() const noexcept override { return 1; }
  void run(std::int64_t count, TaskRef task) override {
    std::thread([&] { SerialExecutor().run(count, task); }).join();
  }
};

TEST(Progress, IsAskedBetweenPassesWhereTheCallingThreadRunsNothing) {
  const Matrix w = weights(50, 200, 20);
  ElsewhereExecutor elsewhere;
  std::vector<double> shares;
  const auto all = [&](double share) {
    shares.push_back(share);
    return true;
  };
  (void)quantize(w, {}, {.executor = &elsewhere, .progress = all});
  EXPECT_EQ(shares, (std::vector<double>{4.0 / 54, 1}));
  const auto stop = [](double) { return false; };
  EXPECT_THROW((void)quantize(w, {}, {.executor = &elsewhere, .progress = stop}), Cancelled);
}

TEST(Progress, ExceptionOfTheCallbackComesOut) {
  const Matrix w = weights_and_outliers(50, 200, 20);
  Eigen::ThreadPool pool(3);
  ThreadPoolExecutor threads(pool);
  for (Executor* e : std::initializer_list<Executor*>{nullptr, &threads})
    EXPECT_THROW(
        (void)quantize(w, {}, {.executor = e, .progress = [](double) -> bool { throw std::logic_error("stop"); }}),
        std::logic_error);
}

TEST(Report, SaysWhatWasDone) {
  const Matrix w = weights_and_outliers(70, 300, 21);
  QuantizeReport report;
  (void)quantize(w, {}, {.report = &report});
  EXPECT_TRUE(report.balanced);
  double before = 0, after = 0;
  const Tiling t = tiling(70, 300, 64, Tile::stripe);
  for (std::int64_t g = 0; g < t.groups(); ++g) {
    const Balance b = sinkhorn(WeightView(w.data() + t.group_begin(g), DType::f32, 70, t.group_cols(g), 300));
    before += b.imbalance_before / 5;
    after += b.imbalance_after / 5;
  }
  EXPECT_NEAR(report.imbalance_before, before, 1e-12 * before);
  EXPECT_NEAR(report.imbalance_after, after, 1e-12 * after);
  (void)quantize(w, {.balance = Balancing::none}, {.report = &report});
  EXPECT_FALSE(report.balanced);
  EXPECT_EQ(report.imbalance_before, 1);
  EXPECT_EQ(report.imbalance_after, 1);
}

TEST(Report, KurtosisGate) {
  const Matrix w = weights_and_outliers(70, 300, 22);
  const double k = kurtosis(view(w));
  QuantizeReport report;
  EXPECT_EQ(quantize(w, {.kurtosis_gate = 1.01 * k}, {.report = &report}), quantize(w, QuantizeConfig{}));
  EXPECT_TRUE(report.balanced);
  EXPECT_EQ(quantize(w, {.kurtosis_gate = 0.99 * k}, {.report = &report}), quantize(w, {.balance = Balancing::none}));
  EXPECT_FALSE(report.balanced);
}

// --- metrics ------------------------------------------------------------------------------------------------------

TEST(Measure, IsTheNaiveSum) {
  const Matrix w = weights_and_outliers(30, 100, 23);
  const QuantizedMatrix q = quantize(w, {.bits = 3});
  const Eigen::MatrixXd d = (dequantize(q).cast<double>() - w.cast<double>());
  Eigen::VectorXd m = Eigen::VectorXd::LinSpaced(100, 0, 2);
  const ErrorMetrics plain = measure(q, view(w));
  const double error = d.norm() / w.cast<double>().norm();
  EXPECT_NEAR(plain.relative_error, error, 1e-12 * error);  // 3000 additions in double
  EXPECT_NEAR(plain.output_error, error, 1e-12 * error);
  EXPECT_EQ(plain.max_error, d.cwiseAbs().maxCoeff());
  const ErrorMetrics weighted = measure(q, view(w), std::span<const double>(m.data(), 100));
  const double output = std::sqrt((d * m.asDiagonal() * d.transpose()).trace() /
                                  (w.cast<double>() * m.asDiagonal() * w.cast<double>().transpose()).trace());
  EXPECT_NEAR(weighted.output_error, output, 1e-12 * output);
  EXPECT_EQ(weighted.relative_error, plain.relative_error);
}

TEST(Measure, EdgesAndRefusals) {
  const Matrix w = weights_and_outliers(4, 20, 24);
  const QuantizedMatrix q = quantize(w);
  EXPECT_EQ(measure(quantize(Matrix::Zero(4, 20)), view(Matrix::Zero(4, 20))).relative_error, 0);
  EXPECT_EQ(measure(q, view(Matrix::Zero(4, 20))).relative_error, INFINITY);
  EXPECT_EQ(message_of([&] { (void)measure(q, view(w.topRows(3))); }),
            "sinq: weights.rows = 3: must equal the rows of the matrix, 4");
  const std::vector<double> few(19, 1.0);
  EXPECT_EQ(message_of([&] { (void)measure(q, WeightView(nullptr, DType::f32, 4, 20)); }),
            "sinq: weights.data = null: must not be null");
  EXPECT_EQ(message_of([&] { (void)measure(q, WeightView(w.data(), DType::f32, 4, 20, 19)); }),
            "sinq: weights.stride = 19: must be at least weights.cols");
  EXPECT_EQ(message_of([&] { (void)measure(q, view(w), few); }),
            "sinq: mean_square.size() = 19: must be 0 or the cols of the matrix");
  for (double bad : {-1.0, double{NAN}, double{INFINITY}}) {
    std::vector<double> mean_square(20, 1.0);
    mean_square[7] = bad;
    EXPECT_THROW((void)measure(q, view(w), mean_square), InvalidArgument);
  }
  Matrix nan = w;
  nan(3, 4) = NAN;
  EXPECT_EQ(message_of([&] { (void)measure(q, view(nan)); }), "sinq: weights(3, 4) = nan: must be finite (as float)");
}

// --- elementary functions -----------------------------------------------------------------------------------------

TEST(Elementary, LogarithmAndPowerOfTwo) {
  using Float = detail::core::Lanes<4>;
  const auto first = [](const Float& v) {
    float lanes[4];
    v.store(lanes);
    return lanes[0];
  };
  std::mt19937 random(25);
  for (int k = 0; k < 100000; ++k) {
    const float x = std::exp2(random_float(random, -125, 127));
    // Series 1.1e-9 * 2.9, rounding of t (3 of 2^-24 of at most 0.5) and of the result (2^-24 of up to 128).
    const double exact = std::log2(double{x});
    ASSERT_NEAR(double{first(detail::quantize::log2(Float(x)))}, exact, 4 * 0x1p-24 + 0x1p-24 * std::abs(exact)) << x;
    const float y = random_float(random, -120, 120);
    ASSERT_NEAR(double{first(detail::quantize::exp2(Float(y)))} / std::exp2(double{y}), 1, 4 * 0x1p-24) << y;
  }
  EXPECT_EQ(first(detail::quantize::log2(Float(1.0f))), 0.0f);
  EXPECT_EQ(first(detail::quantize::exp2(Float(-3.0f))), 0.125f);
}

}  // namespace
