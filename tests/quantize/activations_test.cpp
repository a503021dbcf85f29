// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <sinq/core/thread_pool.hpp>
#include <sinq/quantize.hpp>
#include <vector>

#include "support/isas.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"

namespace {

using namespace sinq;
using test::message_of;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix uneven_tokens(std::int64_t count, std::int64_t cols, std::uint32_t seed = 3) {
  std::mt19937 random(seed);
  Matrix x = Matrix::NullaryExpr(count, cols, [&] { return test::random_normal(random); });
  for (std::int64_t j = 0; j < cols; ++j) x.col(j) *= test::random_float(random, 0.1f, 5);
  return x;
}

constexpr ActivationsOptions kAll{.second_moments = true, .sample = 16};

bool same(const Activations& a, const Activations& b) {
  bool equal = a.tokens() == b.tokens() && a.mean_square() == b.mean_square() &&
               a.mean_magnitude() == b.mean_magnitude() && a.sample().rows == b.sample().rows;
  for (std::int64_t i = 0; equal && i < a.cols(); ++i)
    for (std::int64_t j = 0; j < a.cols(); ++j) equal &= a.second_moment(i, j) == b.second_moment(i, j);
  for (std::int64_t t = 0; equal && t < a.sample().rows; ++t)
    equal &= std::equal(a.sample().row(t), a.sample().row(t) + a.cols(), b.sample().row(t));
  return equal;
}

// Squares of floats are exact in double, and a sum of n terms in one fixed order is off by n 2^-53 of the sum of
// magnitudes at most; so is the naive one.
TEST(Activations, AreTheMeansOfTheTokens) {
  const std::int64_t cols = 150;  // neither a multiple of 16 nor of a block of 128
  const Matrix x = uneven_tokens(200, cols);
  Activations a(cols, kAll);
  a.add(x);
  EXPECT_EQ(a.tokens(), 200);
  const auto squares = a.mean_square();
  const auto magnitudes = a.mean_magnitude();
  for (std::int64_t i = 0; i < cols; ++i)
    for (std::int64_t j = 0; j < cols; ++j) {
      double sum = 0;
      double most = 0;
      double magnitude = 0;
      for (std::int64_t t = 0; t < x.rows(); ++t) {
        sum += double{x(t, i)} * double{x(t, j)};
        most += std::abs(double{x(t, i)} * double{x(t, j)});
        magnitude += std::abs(double{x(t, i)});
      }
      ASSERT_NEAR(a.second_moment(i, j), sum / 200, 2 * 200 * 0x1p-53 * most / 200) << i << " " << j;
      if (i != j) continue;
      EXPECT_NEAR(squares[static_cast<std::size_t>(i)], sum / 200, 2 * 200 * 0x1p-53 * sum / 200);
      EXPECT_NEAR(magnitudes[static_cast<std::size_t>(i)], magnitude / 200, 2 * 200 * 0x1p-53 * magnitude / 200);
    }
}

TEST(Activations, HaveTheSameBitsHoweverTheTokensCome) {
  const Matrix x = uneven_tokens(300, 140);
  Activations at_once(140, kAll);
  at_once.add(x);
  Eigen::ThreadPool three(3);
  ThreadPoolExecutor pool(three);
  test::on_every_isa([&](Isa) {
    Activations pieces(140, kAll);
    for (std::int64_t t = 0; t < 300;) {
      const std::int64_t count = std::min<std::int64_t>(1 + t % 71, 300 - t);
      pieces.add(MatrixView<const float>(x.data() + t * 140, count, 140), &pool);
      t += count;
    }
    EXPECT_TRUE(same(at_once, pieces));
  });
}

TEST(Activations, KeepEverySecondFourthEighthToken) {
  for (std::int64_t room : {2, 5, 16})
    for (std::int64_t count : {1, 2, 3, 5, 6, 16, 17, 31, 32, 33, 100}) {
      Matrix x(count, 1);
      for (std::int64_t t = 0; t < count; ++t) x(t, 0) = static_cast<float>(t);
      Activations a(1, {.sample = room});
      a.add(x);
      std::int64_t stride = 1;
      while ((count + stride - 1) / stride > room) stride *= 2;
      ASSERT_EQ(a.sample().rows, (count + stride - 1) / stride) << room << " " << count;
      for (std::int64_t k = 0; k < a.sample().rows; ++k)
        EXPECT_EQ(*a.sample().row(k), static_cast<float>(k * stride)) << room << " " << count;
    }
}

// The two sums differ by the rounding of one order of adding and another.
// A full sample of these would be 4 TiB.
TEST(Activations, TakeMemoryForTheTokensThereAre) {
  const Matrix x = uneven_tokens(3, 1 << 20);
  Activations a(1 << 20, {.sample = 1 << 20});
  for (std::int64_t t = 0; t < x.rows(); ++t) a.add(MatrixView<const float>(x.row(t).data(), 1, x.cols()));
  ASSERT_EQ(a.sample().rows, 3);
  for (std::int64_t t = 0; t < 3; ++t)
    EXPECT_TRUE(std::equal(a.sample().row(t), a.sample().row(t) + x.cols(), x.row(t).data())) << t;
}

TEST(Activations, MergedAreThoseOfAllTokens) {
  const Matrix x = uneven_tokens(96, 40);
  Activations at_once(40, kAll);
  at_once.add(x);
  for (std::int64_t cut : {0, 32, 64, 96}) {
    Activations a(40, kAll);
    Activations b(40, kAll);
    a.add(MatrixView<const float>(x.data(), cut, 40));
    b.add(MatrixView<const float>(x.data() + cut * 40, 96 - cut, 40));
    a.merge(b);
    EXPECT_EQ(a.tokens(), 96);
    for (std::int64_t i = 0; i < 40; ++i)
      for (std::int64_t j = 0; j < 40; ++j)
        ASSERT_NEAR(a.second_moment(i, j), at_once.second_moment(i, j),
                    2 * 96 * 0x1p-53 * std::sqrt(at_once.second_moment(i, i) * at_once.second_moment(j, j)));
    ASSERT_EQ(a.sample().rows, at_once.sample().rows) << cut;  // strides divide the cuts: the same tokens
    for (std::int64_t t = 0; t < a.sample().rows; ++t)
      EXPECT_TRUE(std::equal(a.sample().row(t), a.sample().row(t) + 40, at_once.sample().row(t))) << cut;
  }
  Activations twice(40, kAll);
  twice.add(x);
  twice.merge(twice);
  EXPECT_EQ(twice.tokens(), 192);
  EXPECT_EQ(twice.mean_square(), at_once.mean_square());  // 2 a / 2 n
}

TEST(Activations, RefuseWhatDoesNotFit) {
  EXPECT_EQ(message_of([] { Activations a(0); }), "sinq: cols = 0: allowed are 1 to 2^31 - 1");
  EXPECT_EQ(message_of([] { Activations a(4, {.sample = 1}); }), "sinq: sample = 1: allowed are 2 to 2^20");
  Activations a(4);
  Matrix x = Matrix::Ones(3, 4);
  EXPECT_EQ(message_of([&] { a.add(MatrixView<const float>(x.data(), 4, 3)); }),
            "sinq: tokens.cols = 3: must equal the columns of the statistics, 4");
  x(2, 1) = NAN;
  EXPECT_EQ(message_of([&] { a.add(x); }), "sinq: tokens(2, 1) = nan: must be finite and below 2^120 in magnitude");
  x(2, 1) = 0x1p120f;
  EXPECT_NE(message_of([&] { a.add(x); }).find("tokens(2, 1)"), std::string::npos);
  EXPECT_EQ(a.tokens(), 0);
  EXPECT_EQ(a.mean_square(), std::vector<double>(4));
  EXPECT_EQ(message_of([&] { a.merge(Activations(5)); }),
            "sinq: other.cols() = 5: must equal the columns of the statistics, 4");
  EXPECT_EQ(message_of([&] { a.merge(Activations(4, kAll)); }),
            "sinq: other.has_second_moments() = 1: must be the same on both sides");
}

TEST(Activations, TokensHaveAnyElementType) {
  const Matrix x = uneven_tokens(600, 30);  // two blocks and a part
  const auto expect_same = [&](const auto& tokens) {
    Activations a(30, kAll), floats(30, kAll);
    a.add(tokens);
    floats.add(tokens.template cast<float>().eval());
    EXPECT_TRUE(same(a, floats));
  };
  expect_same(x.cast<half>().eval());
  expect_same(x.cast<bfloat16>().eval());
  expect_same(x.cast<double>().eval());
  std::vector<std::byte> bytes(600 * 30 * sizeof(float) + 1);  // a file's, at an odd address
  std::memcpy(bytes.data() + 1, x.data(), bytes.size() - 1);
  Activations a(30, kAll), floats(30, kAll);
  a.add(WeightView(bytes.data() + 1, DType::f32, 600, 30));
  floats.add(x);
  EXPECT_TRUE(same(a, floats));
}

/// Tokens known by their means count in squares and products, those that were added in all else as well.
TEST(Activations, MeansMergeWithTokens) {
  const Matrix x = uneven_tokens(64, 20);
  Activations first(20, kAll), all(20, kAll);
  first.add(x.topRows(32));
  all.add(x);
  std::vector<double> moments(20 * 20);
  for (std::int64_t i = 0; i < 20; ++i)
    for (std::int64_t j = 0; j < 20; ++j) moments[static_cast<std::size_t>(i * 20 + j)] = first.second_moment(i, j);
  Activations a = Activations::of_second_moments(moments, 20, 32);
  EXPECT_EQ(a.sample().rows, 0);
  EXPECT_EQ(a.mean_magnitude(), std::vector<double>(20));
  a.add(x.bottomRows(32));
  EXPECT_EQ(a.tokens(), 64);
  EXPECT_EQ(a.mean_square(), all.mean_square());
  for (std::int64_t i = 0; i < 20; ++i)
    for (std::int64_t j = 0; j < 20; ++j) EXPECT_EQ(a.second_moment(i, j), all.second_moment(i, j));
  Activations last(20);
  last.add(x.bottomRows(32));
  EXPECT_EQ(a.mean_magnitude(), last.mean_magnitude());
  EXPECT_EQ(a.sample().rows, 32);
  Activations merged = Activations::of_mean_square(first.mean_square(), 32);
  merged.merge(last);
  Activations both(20);
  both.add(x.topRows(32));
  both.merge(last);
  EXPECT_EQ(merged.mean_square(), both.mean_square());
  EXPECT_EQ(merged.mean_magnitude(), last.mean_magnitude());
}

TEST(Activations, WrongMeansAreNamed) {
  const auto message = [](const std::vector<double>& means, std::int64_t tokens) {
    return message_of([&] { (void)Activations::of_mean_square(means, tokens); });
  };
  const std::string limits = ": must be finite and below 2^240 in magnitude, a square at least 0";
  EXPECT_EQ(message({1, 2}, 3), "nothing was thrown");
  EXPECT_EQ(message({}, 3), "sinq: cols = 0: allowed are 1 to 2^31 - 1");
  EXPECT_EQ(message({1, 2}, 0), "sinq: tokens = 0: must be at least 1");
  EXPECT_EQ(message({1, -2}, 3), "sinq: E[x_1 x_1] = -2" + limits);
  EXPECT_EQ(message({NAN, 2}, 3), "sinq: E[x_0 x_0] = nan" + limits);
  const auto of_moments = [](const std::vector<double>& moments, std::int64_t cols) {
    return message_of([&] { (void)Activations::of_second_moments(moments, cols, 3); });
  };
  EXPECT_EQ(of_moments({1, -2, NAN, 4}, 2), "nothing was thrown");
  EXPECT_EQ(of_moments({1, 2, 3}, 2), "sinq: second_moments.size() = 3: must be 4, cols x cols");
  EXPECT_EQ(of_moments({1, 2, 3}, 0x7fff'ffff),  // before there is memory for so many
            "sinq: second_moments.size() = 3: must be 4611686014132420609, cols x cols");
  EXPECT_EQ(of_moments({1, INFINITY, 3, 4}, 2), "sinq: E[x_0 x_1] = inf" + limits);
  EXPECT_EQ(of_moments({1, 2, 3, 0}, 2), "sinq: E[x_0 x_1] = 2: must be 0, as the square of one of them is");
}

}  // namespace
