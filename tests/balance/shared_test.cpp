// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <sinq/balance.hpp>
#include <sinq/core/thread_pool.hpp>

#include "support/isas.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"

namespace {

using namespace sinq;
using test::message_of;
using test::random_float;
using test::random_normal;
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Matrices whose columns have the same very different sizes, and rows of their own.
struct Siblings {
  Matrix stacked;
  std::vector<WeightView> parts;

  Siblings(const std::vector<std::int64_t>& rows, std::int64_t cols, std::uint32_t seed) {
    std::mt19937 random(seed);
    std::int64_t total = 0;
    for (std::int64_t r : rows) total += r;
    stacked = Matrix::NullaryExpr(total, cols, [&] { return random_normal(random); });
    for (std::int64_t i = 0; i < total; ++i) stacked.row(i) *= std::exp2(random_float(random, -2, 2));
    for (std::int64_t j = 0; j < cols; ++j) stacked.col(j) *= std::exp2(random_float(random, -2, 2));
    std::int64_t first = 0;
    for (std::int64_t r : rows) {
      parts.emplace_back(stacked.data() + first * cols, DType::f32, r, cols);
      first += r;
    }
  }
};

/// The definition: the balance of every group of columns of the stacked matrix, over the median of all.
TEST(SharedColScale, IsTheBalanceOfTheStackedMatrixOverItsMedian) {
  const Siblings s({40, 7, 24}, 80, 1);
  std::vector<float> expected;
  double after = 0;
  for (std::int64_t first : {0, 32, 64}) {
    const Matrix part = s.stacked.middleCols(first, std::min<std::int64_t>(32, 80 - first));
    const Balance b = sinkhorn(WeightView(part.data(), DType::f32, part.rows(), part.cols()));
    expected.insert(expected.end(), b.col.begin(), b.col.end());
    after += b.imbalance_after / 3;
  }
  std::vector<float> sorted = expected;
  std::sort(sorted.begin(), sorted.end());
  for (float& c : expected) c /= sorted[40];
  SerialExecutor serial;
  Eigen::ThreadPool pool(3);
  ThreadPoolExecutor threads(pool);
  test::on_every_isa([&](Isa) {
    for (Executor* executor : {static_cast<Executor*>(nullptr), static_cast<Executor*>(&threads)}) {
      const SharedBalance found = shared_col_scale(s.parts, {.group_size = 32, .executor = executor});
      EXPECT_EQ(found.col, expected);
      EXPECT_DOUBLE_EQ(found.imbalance_after, after);
      EXPECT_GT(found.imbalance_before, 10 * after);
    }
  });
}

/// 2^k within sqrt(2) of the exact factor, so that a weight divided by it keeps its fraction; the imbalance is that of
/// the rounded factors.
TEST(SharedColScale, PowersOfTwo) {
  const Siblings s({30, 30}, 64, 2);
  const SharedBalance exact = shared_col_scale(s.parts, {.group_size = kWholeRow});
  const SharedBalance rounded = shared_col_scale(s.parts, {.group_size = kWholeRow, .powers_of_two = true});
  const Balance b = sinkhorn(WeightView(s.stacked.data(), DType::f32, 60, 64));
  Matrix x = s.stacked;
  for (std::int64_t i = 0; i < 60; ++i) x.row(i) /= b.row[static_cast<std::size_t>(i)];
  int ones = 0;
  for (std::size_t j = 0; j < exact.col.size(); ++j) {
    int exponent = 0;
    EXPECT_EQ(std::frexp(rounded.col[j], &exponent), 0.5f);
    const double ratio = double{exact.col[j]} / double{rounded.col[j]};
    EXPECT_GE(ratio, std::sqrt(0.5) - 1e-7);  // the bound itself rounds to float
    EXPECT_LE(ratio, std::sqrt(2.0) + 1e-7);
    ones += rounded.col[j] == 1.0f;
    x.col(static_cast<std::int64_t>(j)) /= rounded.col[j];
  }
  EXPECT_LT(ones, 50);  // there was something to round
  // Two divisions against one by a product: 3 u, and a deviation of 64 weights adds them up in 10 steps or so.
  EXPECT_NEAR(rounded.imbalance_after, imbalance(WeightView(x.data(), DType::f32, 60, 64)), 1e-5);
  EXPECT_GT(rounded.imbalance_after, exact.imbalance_after);
  EXPECT_LT(rounded.imbalance_after, 2.1 * exact.imbalance_after);  // columns off by sqrt(2) either way
}

TEST(SharedColScale, OneMatrixOfOtherTypesAndStrides) {
  const Siblings s({20}, 48, 3);
  const Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> wide = s.stacked.cast<double>();
  const WeightView part(wide.data() + 16, DType::f64, 20, 32, 48);
  const Matrix copy = s.stacked.middleCols(16, 32);
  const WeightView same(copy.data(), DType::f32, 20, 32);
  EXPECT_EQ(shared_col_scale({{part}}).col, shared_col_scale({{same}}).col);
}

TEST(SharedColScale, WrongArgumentsAreNamed) {
  Siblings s({4, 4}, 32, 4);
  EXPECT_EQ(message_of([] { (void)shared_col_scale({}); }), "sinq: matrices.size() = 0: must be at least 1");
  EXPECT_EQ(message_of([&] { (void)shared_col_scale(s.parts, {.group_size = 24}); }),
            "sinq: group_size = 24: allowed are multiples of 16 from 16 to 256, and 0 for the whole row");
  s.parts[1].cols = 31;
  EXPECT_EQ(message_of([&] { (void)shared_col_scale(s.parts); }),
            "sinq: matrices[1].cols = 31: must be the same for all matrices");
  s.parts[1].cols = 32;
  const auto with = [&](auto change) {
    std::vector<WeightView> parts(s.parts.begin(), s.parts.end());
    change(parts[1]);
    return message_of([&] { (void)shared_col_scale(parts); });
  };
  EXPECT_EQ(with([](WeightView& w) { w.rows = 0; }), "sinq: matrices[1].rows = 0: must be at least 1");
  EXPECT_EQ(with([](WeightView& w) { w.data = nullptr; }), "sinq: matrices[1].data = null: must not be null");
  EXPECT_EQ(with([](WeightView& w) { w.stride = 31; }),
            "sinq: matrices[1].stride = 31: must be at least matrices[1].cols");
  s.stacked(6, 9) = INFINITY;
  EXPECT_NE(message_of([&] { (void)shared_col_scale(s.parts); }).find("matrices[1](2, 9)"), std::string::npos);
}

}  // namespace
