// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cut_off.hpp"
#include "simulate.hpp"
#include "support/formats.hpp"
#include "support/naive.hpp"

// Products against sums in double precision, and what they are made from.

namespace sinq::test {

template <class T>
inline constexpr double kOutputRounding = std::is_same_v<T, half>       ? 0x1p-11
                                          : std::is_same_v<T, bfloat16> ? 0x1p-8
                                                                        : 0x1p-24;

template <class T>
inline constexpr double kWeightRounding = std::is_same_v<T, half> ? 0x1p-11 : 0x1p-8;

/// y against exact sums. Let S = sum_j |x'_j| (|operand| + |zero|) |scale|, where the operand is what the tensor core
/// multiplies: the code (or the level of a table), and the zero belongs to it; M the largest |x'| of the token.
///   activation   x' = x col_scale rounds once in float (2^-24). One half per activation: 2^-11 of x'; two: 2^-22.
///                Below the normal halves, 2^-25 of what 2^14 stands for, at most 2^-25 2^-13 M 2^6 (operands are up to
///                2^6 times too large) = 2^-32 M per activation. Of two halves that meet codes the first is a whole
///                number where M is 2^13 to 2^14; the other one, then up to 1/2, rounds by 2^-13, which is 2^-26 M.
///   weight       wgmma multiplies activations as they are by weights that round to the type of x: 2^-11 or 2^-8 of
///                (level - zero) scale col_scale; below the normal halves, 2^-25.
///   level        NF levels round to half: 2^-11 of the level.
///   sums         a sum of n terms in float: n 2^-24 of S for the products, n for the activations, and as many for
///                scale and slices; twice that, since the tensor core truncates where others round.
///   alignment    of subnormal halves: cut_off.hpp.
///   result       rounds to the type of y: half of its last bit, which is 2^-25 below the normal halves.
template <class X, class Y>
void expect_product(const QuantizedMatrix& q, const MatrixView<const X>& x, const MatrixView<Y>& y, const Y* bias,
                    const test::Simulation& run) {
  ASSERT_EQ(run.failure, "") << to_string(run.plan);
  const Naive n{q};
  const bool nf = q.format.levels == Levels::nf4 || q.format.levels == Levels::nf3;
  const double shift = q.format.levels == Levels::symmetric ? 1 << (q.format.bits - 1) : 0;
  const bool wgmma = run.plan.kernel == cuda::Kernel::wgmma;
  const bool codes = !wgmma && q.format.levels <= Levels::symmetric;
  const double activation = run.plan.pieces == 2 ? 0x1p-22 : 0x1p-11;
  const double least = run.plan.pieces == 2 && codes ? 0x1p-26 + 0x1p-32 : 0x1p-32;
  for (std::int64_t i = 0; i < q.rows; ++i) {
    std::vector<double> level, zero, scale, col;
    for (std::int64_t j = 0; j < q.cols; ++j) {
      const std::int64_t g = j / n.width;
      level.push_back(n.level(i, j));
      zero.push_back(n.zero(i, g));
      scale.push_back(n.scale(i, g));
      col.push_back(n.col_scale(i, j));
    }
    for (std::int64_t t = 0; t < x.rows; ++t) {
      double exact = bias ? static_cast<double>(bias[i]) : 0, size = std::abs(exact), error = 0, largest = 0, plain = 0;
      for (std::int64_t j = 0; j < q.cols; ++j)
        largest = std::max(largest, std::abs(static_cast<double>(x.row(t)[j]) * col[j]));
      double step_largest = 0, step_cut_off = 0;
      for (std::int64_t j = 0; j < q.cols; ++j) {
        const double x_j = std::abs(static_cast<double>(x.row(t)[j]));
        const double xs = static_cast<double>(x.row(t)[j]) * col[j];
        exact += (level[j] - zero[j]) * scale[j] * xs;
        const double operand = std::abs(level[j] + shift) + std::abs(zero[j] + shift);
        size += operand * std::abs(scale[j] * xs);
        const double weight = std::abs((level[j] - zero[j]) * scale[j]);
        error += wgmma ? kWeightRounding<X> * weight * std::abs(xs) + 0x1p-25 * x_j
                       : (activation * std::abs(xs) + least * largest) * weight;
        plain += std::abs(level[j] * scale[j] * xs);
        step_largest = std::max(step_largest, std::abs(xs));
        if (codes)  // groups are whole steps
          step_cut_off = cut_off_of_codes(run.plan.pieces, step_largest, largest) * std::abs(scale[j]);
        else if (wgmma && std::is_same_v<X, half>)
          step_cut_off = std::max(step_cut_off, cut_off_of_halves(weight * std::abs(col[j]), x_j));
        if (j % 16 == 15 || j + 1 == q.cols) {
          error += step_cut_off;
          step_largest = step_cut_off = 0;
        }
      }
      error += 4 * static_cast<double>(q.cols + 16) * 0x1p-24 * size;
      if (nf) error += 0x1p-11 * plain;
      error += kOutputRounding<Y> * std::abs(exact) + (std::is_same_v<Y, half> ? 0x1p-25 : 1e-30);
      ASSERT_NEAR(static_cast<double>(y.row(t)[i]), exact, error)
          << "token " << t << " row " << i << " of " << q.rows << 'x' << q.cols << ", bits " << q.format.bits
          << " levels " << static_cast<int>(q.format.levels) << " group " << q.format.group_size << "\n"
          << to_string(run.plan);
    }
  }
}

/// A product with random activations of size 1, every other time with a bias.
template <class X = half, class Y = float>
void check_product(const QuantizedMatrix& q, std::int64_t tokens, std::mt19937& random,
                   const cuda::PlanOptions& options = {}) {
  const RowMajor<X> x = random_activations<X>(tokens, q.cols, random);
  const RowMajor<Y> bias = random_activations<Y>(1, q.rows, random);
  RowMajor<Y> y = RowMajor<Y>::Constant(tokens, q.rows, static_cast<Y>(NAN));
  const MatrixView<const X> xs(x);
  const MatrixView<Y> ys(y);
  const Y* const b = random() % 2 ? bias.data() : nullptr;
  const auto run = simulate<X, Y>(q, xs, ys, b, options);
  expect_product<X, Y>(q, xs, ys, b, run);
}

/// The same with any types of activations and results, drawn. wgmma has no float activations.
inline void check_any_types(const QuantizedMatrix& q, std::int64_t tokens, std::mt19937& random,
                            const cuda::PlanOptions& options = {}) {
  const auto with_x = [&]<class X>(X) {
    const unsigned y = random_bits(random) % 3;
    if (y == 0) check_product<X, half>(q, tokens, random, options);
    if (y == 1) check_product<X, bfloat16>(q, tokens, random, options);
    if (y == 2) check_product<X, float>(q, tokens, random, options);
  };
  const unsigned x = random_bits(random) % (options.kernel == cuda::Kernel::wgmma ? 2 : 3);
  if (x == 0) with_x(half{});
  if (x == 1) with_x(bfloat16{});
  if (x == 2) with_x(float{});
}

/// Every format through a kernel, with few tokens, in shapes that are drawn.
inline void check_every_format(cuda::Kernel kernel, std::int64_t most_tokens) {
  std::mt19937 random(2);
  const auto up_to = [&](unsigned most) { return std::int64_t{1} + random_bits(random) % most; };
  const auto check = [&](const Format& f) {
    const QuantizedMatrix q = random_matrix(f, up_to(64), up_to(200), random);
    const int slices = q.cols > detail::cuda::kUnitCols && random() % 3 == 0 ? 2 : 1;
    check_any_types(q, up_to(static_cast<unsigned>(most_tokens)), random, {.kernel = kernel, .slices = slices});
  };
  for (const Format& f : formats()) {
    check(f);
    if (testing::Test::HasFatalFailure()) return;
  }
  for (NamedFormat f : preset_formats())
    for (Tile tile : {Tile::stripe, Tile::square})
      for (int k = 0; k < 3; ++k) {
        f.format.tile = tile;
        check(f.format);
        if (testing::Test::HasFatalFailure()) return;
      }
}

/// Tokens apart from each other, x and y beginning at odd elements, guards all round y.
template <class X, class Y>
void check_strides(bool with_bias, cuda::PlanOptions options = {}) {
  std::mt19937 random(8);
  for (Tile tile : {Tile::stripe, Tile::square})
    for (int slices : {1, 2}) {
      const QuantizedMatrix q = random_matrix({.bits = 3, .group_size = 32, .tile = tile}, 37, 77, random);
      std::vector<X> x(3 + 5 * 81);
      for (auto& v : x) v = static_cast<X>(random_float(random, -1, 1));
      const Y guard = static_cast<Y>(-77.0f);
      std::vector<Y> y(1 + 5 * 40, guard), bias(37);
      for (auto& v : bias) v = static_cast<Y>(random_float(random, -1, 1));
      const MatrixView<const X> xs(x.data() + 3, 5, 77, 81);
      const MatrixView<Y> ys(y.data() + 1, 5, 37, 40);
      const Y* b = with_bias ? bias.data() : nullptr;
      options.slices = slices;
      expect_product<X, Y>(q, xs, ys, b, simulate<X, Y>(q, xs, ys, b, options));
      for (std::size_t k = 0; k < y.size(); ++k)
        if (k == 0 || (k - 1) % 40 >= 37) {
          ASSERT_EQ(static_cast<float>(y[k]), -77.0f) << k;
        }
    }
}

/// What is seen of a kernel with a bug put in.
struct Broken {
  std::string failure;
  bool wrong;  // the result differs from the sound kernel's
};
inline Broken with_bug(const cuda::PlanOptions& options, std::int64_t stride,
                       const std::function<void(Executor&, detail::cuda::Product&)>& bug, std::int64_t cols, int bits) {
  std::mt19937 random(11);
  const QuantizedMatrix q = random_matrix({.bits = bits, .group_size = 48}, 40, cols, random);
  const RowMajor<half> x = random_activations<half>(2, stride, random);
  const MatrixView<const half> xs(x.data(), 2, cols, stride);
  RowMajor<float> sound(2, 40), broken = RowMajor<float>::Zero(2, 40);
  EXPECT_EQ((simulate<half, float>(q, xs, MatrixView<float>(sound), nullptr, options)).failure, "");
  const auto run = simulate<half, float>(q, xs, MatrixView<float>(broken), nullptr, options, {}, bug);
  return {run.failure, sound != broken};
}

}  // namespace sinq::test
