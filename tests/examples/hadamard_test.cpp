// SPDX-License-Identifier: Apache-2.0
#include "compare/hadamard.hpp"

#include <gtest/gtest.h>

namespace {

using compare::FloatMatrix;
using compare::Rotation;

FloatMatrix normal(std::int64_t rows, std::int64_t cols) {
  std::mt19937 random(2);
  std::normal_distribution<float> distribution;
  return FloatMatrix::NullaryExpr(rows, cols, [&] { return distribution(random); });
}

/// Rows of R are orthonormal, also where several blocks make a row. Every entry is a sum of at most 32 terms, exact but
/// for one product with 1 / sqrt(32), itself off by 2^-24: 3 * 2^-24 of a row's norm.
TEST(Hadamard, IsOrthonormal) {
  for (const std::int64_t cols : {1, 2, 96, 80, 7}) {
    const Rotation rotation(cols);
    EXPECT_EQ(rotation.block(), cols == 96 ? 32 : cols == 80 ? 16 : cols == 7 ? 1 : cols);
    const FloatMatrix r = rotation.forward(FloatMatrix::Identity(cols, cols));
    const Eigen::MatrixXd product = r.cast<double>() * r.cast<double>().transpose();
    EXPECT_LT((product - Eigen::MatrixXd::Identity(cols, cols)).cwiseAbs().maxCoeff(), 6 * 0x1p-24) << cols;
    const float entry = 1 / std::sqrt(static_cast<float>(rotation.block()));
    EXPECT_EQ((r.array().abs() == entry).count(), cols * rotation.block());
  }
}

/// There and back: 2 log2(32) additions and two products, each off by 2^-24 of the largest partial sum, which is below
/// the norm of the block: 12 * 2^-24 * |row|.
TEST(Hadamard, BackwardUndoesForward) {
  const FloatMatrix w = normal(5, 96);
  const Rotation rotation(96);
  const FloatMatrix turned = rotation.forward(w);
  EXPECT_GT((turned - w).norm(), 0.5f * w.norm());
  for (std::int64_t i = 0; i < w.rows(); ++i) {
    EXPECT_NEAR(turned.row(i).norm(), w.row(i).norm(), 12 * 0x1p-24 * w.row(i).norm());
    EXPECT_LT((rotation.backward(turned) - w).row(i).cwiseAbs().maxCoeff(), 12 * 0x1p-24f * w.row(i).norm());
  }
  EXPECT_EQ(Rotation(96).forward(w), turned);
  EXPECT_NE(Rotation(96, 2).forward(w), turned);
}

/// One weight in 64 is 20 times as large as the others: with it a group of 64 has steps of some 20 / 15 of their
/// deviation, without (spread over the block) some 3 * sqrt(7) / 15.
TEST(Hadamard, RoundingLosesLessWhereThereAreOutliers) {
  FloatMatrix w = normal(32, 128);
  for (std::int64_t i = 0; i < w.rows(); ++i)
    for (std::int64_t j = i % 64; j < w.cols(); j += 64) w(i, j) = 20;
  const sinq::QuantizeConfig rtn{.bits = 4, .group_size = 64, .balance = sinq::Balancing::none};
  FloatMatrix plain(w.rows(), w.cols());
  sinq::dequantize(sinq::quantize(w, rtn), sinq::MatrixView<float>(plain));
  std::int64_t bytes = 0;
  const FloatMatrix rotated = compare::rotate_and_round(w, rtn, {}, bytes);
  EXPECT_EQ(bytes, sinq::quantize(w, rtn).bytes());
  EXPECT_LT((rotated - w).norm(), 0.8f * (plain - w).norm());
  EXPECT_GT((rotated - w).norm(), 0.01f * w.norm());  // it was rounded
}

}  // namespace
