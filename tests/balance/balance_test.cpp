// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <sinq/balance.hpp>
#include <string>
#include <vector>

#include "support/isas.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"

namespace {

using namespace sinq;
using test::message_of;
using test::random_float;
using test::random_normal;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

WeightView view(const Matrix& m) {
  return {m.data(), DType::f32, m.rows(), m.cols(), m.cols()};
}

Matrix gaussian(std::int64_t rows, std::int64_t cols, std::uint32_t seed) {
  std::mt19937 random(seed);
  return Matrix::NullaryExpr(rows, cols, [&] { return random_normal(random); });
}

/// Rows and columns of very different sizes: what balancing is for.
Matrix uneven(std::int64_t rows, std::int64_t cols, std::uint32_t seed) {
  std::mt19937 random(seed);
  Matrix m = gaussian(rows, cols, seed + 1);
  for (std::int64_t i = 0; i < rows; ++i) m.row(i) *= std::exp2(random_float(random, -2, 2));
  for (std::int64_t j = 0; j < cols; ++j) m.col(j) *= std::exp2(random_float(random, -2, 2));
  return m;
}

/// Two passes in double, and how far the one pass in float may be from it (relative).
struct Deviation {
  double value;
  double bound;
};

/// `length`: additions in float that one term goes through. A sum of n squares is off by (length + 2) u of itself, the
/// sum by as much of sum |v| <= sqrt(n S2): the variance S2 - S^2 / n therefore by less than 3 (length + 2) u S2, the
/// deviation by half of that. S2 over the variance is large where the mean is far from 0.
Deviation two_pass(const Eigen::VectorXd& v, std::int64_t length) {
  const double mean = v.mean();
  const double variance = (v.array() - mean).square().sum();
  return {std::sqrt(variance / static_cast<double>(v.size() - 1)),
          1.5 * static_cast<double>(length + 2) * 0x1p-24 * v.squaredNorm() / std::max(variance, 1e-300)};
}

struct Naive {
  double imbalance;
  double bound;
};

Naive naive_imbalance(const Eigen::MatrixXd& m) {
  double least = INFINITY, most = 0, bound = 0;
  const auto take = [&](const Deviation& d) {
    least = std::min(least, d.value);
    most = std::max(most, d.value);
    bound = std::max(bound, d.bound);
  };
  for (std::int64_t i = 0; m.cols() > 1 && i < m.rows(); ++i)
    take(two_pass(m.row(i).transpose(), m.cols() / 16 + 5));  // 16 lanes, folded
  for (std::int64_t j = 0; m.rows() > 1 && j < m.cols(); ++j)
    take(two_pass(m.col(j), std::min<std::int64_t>(m.rows(), 128)));  // blocks of 128 rows
  return {most / std::max(least, 1e-12), 2 * bound};
}

Eigen::MatrixXd balanced(const Matrix& m, const Balance& b) {
  Eigen::MatrixXd x = m.cast<double>();
  for (std::int64_t i = 0; i < x.rows(); ++i) x.row(i) /= double{b.row[static_cast<std::size_t>(i)]};
  for (std::int64_t j = 0; j < x.cols(); ++j) x.col(j) /= double{b.col[static_cast<std::size_t>(j)]};
  return x;
}

struct Shape {
  std::int64_t rows, cols;
};
constexpr Shape kShapes[] = {{1, 2},  {2, 1},   {1, 300},  {300, 1},  {2, 2},
                             {3, 17}, {16, 16}, {70, 300}, {129, 33}, {257, 64}};

TEST(Imbalance, IsTheTwoPassResult) {
  for (const Shape& s : kShapes)
    for (float mean : {0.0f, 1.0f}) {
      const Matrix m = (uneven(s.rows, s.cols, 1).array() + mean).matrix();
      const Naive naive = naive_imbalance(m.cast<double>());
      ASSERT_LT(naive.bound, 1e-2);
      EXPECT_NEAR(imbalance(view(m)) / naive.imbalance, 1, naive.bound + 1e-12) << s.rows << 'x' << s.cols;
    }
}

TEST(Imbalance, OfFactorsOnTheFly) {
  const Matrix m = uneven(140, 40, 2);
  std::mt19937 random(3);
  std::vector<float> row(144, 1.0f), col(48, 1.0f), buffer(140 * 48, 0.0f);
  Eigen::MatrixXd scaled = m.cast<double>();
  for (std::size_t i = 0; i < 140; ++i)
    scaled.row(static_cast<std::int64_t>(i)) *= double{row[i] = random_float(random, 0.1f, 2)};
  for (std::size_t j = 0; j < 40; ++j)
    scaled.col(static_cast<std::int64_t>(j)) *= double{col[j] = random_float(random, 0.1f, 2)};
  for (std::size_t k = 0; k < 140 * 40; ++k) buffer[k / 40 * 48 + k % 40] = m.data()[k];
  detail::balance::Deviations d;
  detail::balance::DeviationMeter().measure(
      140, 40, row.data(), col.data(), 0.5f,
      [&](std::int64_t first, std::int64_t) { return buffer.data() + first * 48; }, d);
  ASSERT_EQ(d.row.size(), 144u);
  ASSERT_EQ(d.col.size(), 48u);
  for (std::int64_t i = 0; i < 140; ++i) {
    const Deviation naive = two_pass(scaled.row(i).transpose(), 40 / 16 + 5);
    EXPECT_NEAR(2 * d.row[static_cast<std::size_t>(i)] / naive.value, 1, naive.bound);
  }
  for (std::int64_t j = 0; j < 40; ++j) {
    const Deviation naive = two_pass(scaled.col(j), 128);
    EXPECT_NEAR(2 * d.col[static_cast<std::size_t>(j)] / naive.value, 1, naive.bound);
  }
}

// Where one pass in float would measure its own rounding: what is left are the sums in double.
TEST(Imbalance, OfWeightsFarFromZero) {
  for (float deviation : {0.1f, 0.01f, 1e-3f, 1e-4f}) {
    const Matrix m = (deviation * uneven(150, 70, 3).array() + 1).matrix();
    EXPECT_NEAR(imbalance(view(m)) / naive_imbalance(m.cast<double>()).imbalance, 1, 5e-3) << deviation;
    // One factor for all columns, or the rows would differ by what the columns do.
    const Balance b = sinkhorn(view(m));
    EXPECT_LE(naive_imbalance(balanced(m, b)).imbalance, 1.01 * b.imbalance_before) << deviation;
  }
  Matrix one_constant_row = uneven(64, 64, 4);
  one_constant_row.row(5).setConstant(0.1f);
  EXPECT_NEAR(imbalance(view(one_constant_row)) / naive_imbalance(one_constant_row.cast<double>()).imbalance, 1,
              0x1p-24);  // the largest deviation, rounded to float
}

// A power of two changes no bit, even where squares of floats overflow or vanish.
TEST(Imbalance, DoesNotDependOnTheSizeOfTheWeights) {
  const Matrix m = uneven(40, 50, 4);
  const double expected = imbalance(view(m));
  for (int k : {-30, -20, 10, 15, 40, 64, 100, 115}) {
    const Matrix scaled = m * std::ldexp(1.0f, k);
    EXPECT_EQ(imbalance(view(scaled)), expected) << "2^" << k;
  }
  for (int k : {-149, -130, -60}) {  // all deviations lie below the floor of 1e-12
    const Matrix scaled = m * std::ldexp(1.0f, k);
    EXPECT_TRUE(std::isfinite(imbalance(view(scaled))));
    EXPECT_GE(imbalance(view(scaled)), 0);
  }
}

TEST(Imbalance, SingleAndEmptyAxes) {
  EXPECT_EQ(imbalance(view(Matrix::Constant(1, 1, 5))), 1);
  EXPECT_EQ(imbalance(view(Matrix::Zero(4, 4))), 0);  // 0 / 1e-12, as in the reference
  Matrix holed = gaussian(20, 20, 5);
  holed.row(3).setZero();
  EXPECT_NEAR(imbalance(view(holed)), naive_imbalance(holed.cast<double>()).imbalance, 1e7);  // about 1e12, 1e-5 of it
  EXPECT_EQ(message_of([] { (void)imbalance(WeightView{}); }), "sinq: rows = 0: allowed are 1 to 2^31 - 1");
}

TEST(Kurtosis, IsTheTextbookFormula) {
  for (const Shape& s : kShapes) {
    Matrix m = uneven(s.rows, s.cols, 6);
    m(0, 0) += 30;
    const Eigen::ArrayXXd d = m.cast<double>().array() - m.cast<double>().mean();
    // Sums of n terms of one sign in double, twice over: below 1e-12 for all these sizes.
    EXPECT_NEAR(kurtosis(view(m)) / (d.pow(4).mean() / std::pow(d.square().mean(), 2)), 1, 1e-12);
  }
  EXPECT_NEAR(kurtosis(view(gaussian(300, 300, 7))), 2.9, 0.1);  // twelve uniforms summed: 3 - 6 / 60
  EXPECT_EQ(kurtosis(view(Matrix::Constant(5, 7, 0.1f))), 0);
  EXPECT_EQ(kurtosis(view(Matrix::Zero(1, 1))), 0);
  for (float size : {1e30f, 1e-30f}) EXPECT_NEAR(kurtosis(view(gaussian(300, 300, 7) * size)), 2.9, 0.1);
}

TEST(Balance, WeightsThatAreNotFiniteAreNamedEverywhere) {
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    Matrix m = gaussian(40, 40, 8);
    m(31, 17) = bad;
    m(39, 0) = NAN;
    const std::string text = std::isnan(bad) ? "nan" : bad > 0 ? "inf" : "-inf";
    const std::string expected = "sinq: weights(31, 17) = " + text + ": must be finite (as float)";
    EXPECT_EQ(message_of([&] { (void)imbalance(view(m)); }), expected);
    EXPECT_EQ(message_of([&] { (void)kurtosis(view(m)); }), expected);
    EXPECT_EQ(message_of([&] { (void)sinkhorn(view(m)); }), expected);
  }
}

// --- the iteration ------------------------------------------------------------------------------------------------

/// What holds for every matrix.
Balance check(const Matrix& m, const SinkhornOptions& o = {}) {
  Balance b = sinkhorn(view(m), o);
  EXPECT_EQ(std::ssize(b.row), m.rows());
  EXPECT_EQ(std::ssize(b.col), m.cols());
  EXPECT_TRUE(std::isfinite(b.imbalance_before));
  EXPECT_LE(b.imbalance_after, b.imbalance_before);
  for (const auto* factors : {&b.row, &b.col})
    for (float f : *factors) {
      EXPECT_GE(f, static_cast<float>(o.min_factor));
      EXPECT_LE(f, static_cast<float>(o.max_factor));
    }
  return b;
}

TEST(Sinkhorn, TheReportedImbalancesAreThoseOfTheMatrixAndOfTheResult) {
  for (const Shape& s : kShapes) {
    const Matrix m = uneven(s.rows, s.cols, 9);
    const Balance b = check(m);
    EXPECT_EQ(b.imbalance_before, imbalance(view(m)));
    const Naive after = naive_imbalance(balanced(m, b));
    // Factors are returned as floats, and applied as float inverses: 2^-23 for each of two, in numerator and
    // denominator.
    EXPECT_NEAR(b.imbalance_after / after.imbalance, 1, after.bound + 8 * 0x1p-24) << s.rows << 'x' << s.cols;
  }
}

TEST(Sinkhorn, EvensOutWhatProductsOfFactorsMadeUneven) {
  const Matrix m = uneven(256, 64, 10);
  const Balance b = check(m);
  EXPECT_GT(b.imbalance_before, 20);
  EXPECT_LT(b.imbalance_after, 2);  // 16 steps of 0.7 to 2, factors of at least 0.74
  const Balance more = check(m, {.iterations = 100, .min_factor = 1e-3});
  EXPECT_LT(more.imbalance_after, 1.01);
}

TEST(Sinkhorn, BestIterateIsKept) {
  const Matrix m = uneven(64, 64, 11);
  double last = INFINITY;
  for (int k : {0, 1, 2, 4, 8, 16, 64}) {
    const double after = check(m, {.iterations = k}).imbalance_after;
    EXPECT_LE(after, last) << k << " iterations";
    last = after;
  }
  for (int k : {0, 1}) {  // nothing but the identity is looked at
    const Balance b = check(m, {.iterations = k});
    EXPECT_EQ(b.row, std::vector<float>(64, 1.0f));
    EXPECT_EQ(b.col, std::vector<float>(64, 1.0f));
  }
}

TEST(Sinkhorn, OddMatrices) {
  for (const Shape& s : {Shape{1, 1}, Shape{1, 2}, Shape{1, 77}, Shape{77, 1}, Shape{2, 1}, Shape{5, 33}}) {
    const Matrix m = uneven(s.rows, s.cols, 12);
    check(m);
    check(Matrix::Zero(s.rows, s.cols));
    check(Matrix::Constant(s.rows, s.cols, -3.5f));
    for (int k : {-149, -126, -80, -40, 40, 64, 100, 115}) check(m * std::ldexp(1.0f, k));
  }
  EXPECT_EQ(check(Matrix::Constant(1, 1, 3)).imbalance_after, 1);
  Matrix holes = uneven(40, 40, 13);
  holes.row(0).setZero();
  holes.row(39).setZero();
  holes.col(20).setZero();
  const Balance b = check(holes);
  EXPECT_LT(b.imbalance_after, b.imbalance_before);
  Matrix lines = Matrix::Zero(40, 40);  // constant rows and constant columns
  for (int i = 0; i < 40; ++i) lines.row(i).setConstant(0.1f * static_cast<float>(i));
  check(lines);
  check(lines.transpose());
  Matrix mixed = uneven(40, 40, 14);  // huge and tiny side by side
  mixed.topRows(10) *= 1e30f;
  mixed.leftCols(5) *= 1e-35f;
  check(mixed);
}

// The iteration on huge weights is that on small ones, as far as the absolute clamps of the deviations allow.
TEST(Sinkhorn, HugeWeightsAreBalancedWhereTheClampsAllow) {
  const Matrix m = uneven(64, 64, 15);
  const Matrix huge = m * 0x1p90f;
  const SinkhornOptions wide{.min_deviation = 1e-10, .max_deviation = 1e30};
  const Balance small = check(m, wide);
  const Balance large = check(huge, wide);
  // The target is a deviation plus 1e-6: that is all that tells the two apart.
  for (std::size_t k = 0; k < 64; ++k) {
    EXPECT_NEAR(large.row[k] / small.row[k], 1, 1e-3);
    EXPECT_NEAR(large.col[k] / small.col[k], 1, 1e-3);
  }
}

TEST(Sinkhorn, SameBitsOnEveryInstructionSet) {
  for (const Shape& s : kShapes)
    for (float size : {1.0f, 1e25f}) {
      const Matrix m = uneven(s.rows, s.cols, 16) * size;
      std::vector<Balance> all;
      test::on_every_isa([&](Isa) { all.push_back(check(m)); });
      for (const Balance& b : all) {
        EXPECT_EQ(b.row, all[0].row);
        EXPECT_EQ(b.col, all[0].col);
        EXPECT_EQ(b.imbalance_after, all[0].imbalance_after);
        EXPECT_EQ(b.imbalance_before, all[0].imbalance_before);
      }
    }
}

TEST(Balance, ViewsWithoutMemoryAreRefusedEverywhere) {
  const float weights[40] = {};
  for (const bool null : {true, false}) {
    const WeightView w(null ? nullptr : weights, DType::f32, 4, 10, null ? 10 : 9);
    const std::string expected = null ? "sinq: weights.data = null: must not be null"
                                      : "sinq: weights.stride = 9: must be at least weights.cols";
    EXPECT_EQ(message_of([&] { (void)imbalance(w); }), expected);
    EXPECT_EQ(message_of([&] { (void)kurtosis(w); }), expected);
    EXPECT_EQ(message_of([&] { (void)sinkhorn(w); }), expected);
  }
  EXPECT_NO_THROW((void)imbalance(WeightView(weights, DType::f32, 1, 10, 0)));  // one row needs no stride
}

TEST(Sinkhorn, WrongOptionsAreNamed) {
  const Matrix m = Matrix::Ones(2, 2);
  const auto message = [&](const SinkhornOptions& o) { return message_of([&] { (void)sinkhorn(view(m), o); }); };
  const double nan = NAN;
  EXPECT_EQ(message({}), "nothing was thrown");
  EXPECT_EQ(message({.iterations = -1}), "sinq: sinkhorn.iterations = -1: allowed are 0 to 1000");
  EXPECT_EQ(message({.iterations = 1001}), "sinq: sinkhorn.iterations = 1001: allowed are 0 to 1000");
  EXPECT_EQ(message({.min_step = 0}), "sinq: sinkhorn.min_step = 0: must be in (0, 1]");
  EXPECT_EQ(message({.min_step = 1.5}), "sinq: sinkhorn.min_step = 1.5: must be in (0, 1]");
  EXPECT_EQ(message({.max_step = 0.5}), "sinq: sinkhorn.max_step = 0.5: must be in [1, 1e6]");
  EXPECT_EQ(message({.max_step = nan}), "sinq: sinkhorn.max_step = nan: must be in [1, 1e6]");
  EXPECT_EQ(message({.min_deviation = 0}), "sinq: sinkhorn.min_deviation = 0: must be in (0, max_deviation]");
  EXPECT_EQ(message({.min_deviation = 2e3}), "sinq: sinkhorn.min_deviation = 2000: must be in (0, max_deviation]");
  EXPECT_EQ(message({.min_deviation = nan}), "sinq: sinkhorn.min_deviation = nan: must be in (0, max_deviation]");
  EXPECT_EQ(message({.max_deviation = 1e31}), "sinq: sinkhorn.max_deviation = 1e+31: must be in (0, 1e30]");
  EXPECT_EQ(message({.max_deviation = nan}), "sinq: sinkhorn.max_deviation = nan: must be in (0, 1e30]");
  EXPECT_EQ(message({.min_factor = 1e-10}), "sinq: sinkhorn.min_factor = 1e-10: must be in [1e-9, 1]");
  EXPECT_EQ(message({.min_factor = nan}), "sinq: sinkhorn.min_factor = nan: must be in [1e-9, 1]");
  EXPECT_EQ(message({.max_factor = 1e10}), "sinq: sinkhorn.max_factor = 1e+10: must be in [1, 1e9]");
  EXPECT_EQ(message({.max_factor = 0.5}), "sinq: sinkhorn.max_factor = 0.5: must be in [1, 1e9]");
}

TEST(Views, RowMajorEigenMatricesAreWeights) {
  const Matrix m = uneven(30, 50, 18);
  EXPECT_EQ(imbalance(m), imbalance(view(m)));
  EXPECT_EQ(kurtosis(m), kurtosis(view(m)));
  EXPECT_EQ(sinkhorn(m).col, sinkhorn(view(m)).col);
  const Matrix part = m.block(3, 5, 20, 30);
  EXPECT_EQ(kurtosis(m.block(3, 5, 20, 30)), kurtosis(part));
  EXPECT_EQ(kurtosis(Eigen::Map<const Matrix, 0, Eigen::OuterStride<>>(&m(3, 5), 20, 30, Eigen::OuterStride<>(50))),
            kurtosis(part));
  EXPECT_EQ(kurtosis(MatrixRef<float>(m.block(3, 5, 20, 30))), kurtosis(part));
  static_assert(!std::is_convertible_v<Eigen::MatrixXf, WeightView>, "columns would be taken for rows");
  static_assert(!std::is_convertible_v<decltype(m + m), WeightView>, "an expression has no memory");
}

// The farthest that options and weights may go together leaves nothing that is not finite.
TEST(Sinkhorn, ExtremeOptionsOnExtremeWeights) {
  const SinkhornOptions extreme{.iterations = 200,
                                .min_step = 1e-6,
                                .max_step = 1e6,
                                .min_deviation = 1e-30,
                                .max_deviation = 1e30,
                                .min_factor = 1e-9,
                                .max_factor = 1e9};
  for (float size : {0x1p-149f, 0x1p-100f, 1.0f, 0x1p16f, 0x1p17f, 0x1p112f}) {
    Matrix m = uneven(40, 40, 17) * size;
    check(m, extreme);
    m.topRows(20) *= 1e-20f;
    check(m, extreme);
  }
}

}  // namespace
