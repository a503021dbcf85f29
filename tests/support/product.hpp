// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sinq/matmul.hpp>

#include "naive.hpp"

namespace sinq::test {

/// What a product may come out as.
struct ExpectedProduct {
  Eigen::MatrixXd value;  // tokens x rows
  Eigen::MatrixXd error;  // at most, before the result is rounded to its type
};

/// The reference, and how far any kernel may be from it. Activations x' = col_scale x of a group (or 256 columns of a
/// longer one, or the 64 columns of several groups of 16 or 32) are rounded to multiples of a step: off by half a step,
/// and what scaling by its inverse costs.
///
///   fast    step = max |x'| / 127; the product with the inverse is off by 127 units of 2^-22
///   exact   a power of two, at most 1.004 * 2^-22 max |x'|; the product is exact (or x' stays a float). What lies
///           below 2^-104 counts as zero. Integers are multiplied digit by digit, to base 256, and the two upper digits
///           may stand for 128 * 257 steps more than the number: four roundings of that are 2^-7 steps
///
///   bfloat16  (tiles, many tokens) activations and (level - zero) scale are rounded: each off by 2^-8 of itself
///
/// In fast numerics NF levels are off by half of 1/127. Then, in units of 2^-24 of sum_j |x'_j| (|level| + 2 |zero|)
/// |scale|: activation and column scale cost 2 (a double is rounded first), level - zero and its product with the
/// scale 3, a product 1, and a sum of n terms at most n: all columns where floats are added up, so that this holds for
/// sums of bytes as well, which are exact within a segment. `level + (levels[0] - zero)` rounds relative to the zero
/// as well, not only to the difference: hence not the magnitude |W x| itself. Bytes stand for levels up to 256 (2 for
/// NF) from the zero on.
template <class X>
ExpectedProduct expected_product(const QuantizedMatrix& q, const MatrixView<const X>& x, Numerics numerics,
                                 bool bfloat16 = false) {
  const Naive n{q};
  const bool fast = numerics == Numerics::fast && !bfloat16;
  const bool nf = q.format.levels == Levels::nf4 || q.format.levels == Levels::nf3;
  const bool even = q.format.levels == Levels::uniform;
  const std::int64_t segment = n.width == 16 || n.width == 32 ? 64 : std::min<std::int64_t>(n.width, 256);
  const std::int64_t panel = q.format.tile == Tile::stripe ? q.rows : n.width;
  ExpectedProduct expected{reference_matmul(q, x), Eigen::MatrixXd(x.rows, q.rows)};
  Eigen::MatrixXd scaled(x.rows, q.cols);     // |x'|
  Eigen::MatrixXd half_step(x.rows, q.cols);  // of its segment; of both factors, with bfloat16
  Eigen::VectorXd above_zero(q.cols);
  Eigen::VectorXd size(q.cols);
  Eigen::VectorXd scale(q.cols);
  for (std::int64_t i = 0; i < q.rows; ++i) {
    if (i % panel == 0)
      for (std::int64_t t = 0; t < x.rows; ++t)
        for (std::int64_t first = 0; first < q.cols; first += segment) {
          const std::int64_t end = std::min(first + segment, q.cols);
          double most = 0;
          for (std::int64_t j = first; j < end; ++j) {
            scaled(t, j) = std::abs(static_cast<double>(x.row(t)[j]) * n.col_scale(i, j));
            most = std::max(most, scaled(t, j));
          }
          auto half_steps = half_step.row(t).segment(first, end - first);
          half_steps = (bfloat16 ? 0x1p-7 + 0x1p-15 : 0) * scaled.row(t).segment(first, end - first);
          const double half = bfloat16 ? 0
                              : fast   ? most / 127 * (0.5 + 127 * 0x1p-22)
                                       : 1.004 * (1 + 0x1p-6) * 0x1p-23 * most;
          half_steps.array() += half + (most < 0x1p-103 ? most : 0);
        }
    for (std::int64_t j = 0; j < q.cols; ++j) {
      const double zero = n.zero(i, j / n.width);
      scale[j] = std::abs(n.scale(i, j / n.width));
      above_zero[j] = scale[j] * std::abs(n.level(i, j) - zero);
      size[j] = scale[j] * ((fast || !even ? (nf ? 2.0 : 256.0) : n.level(i, j)) + 2 * std::abs(zero));
    }
    Eigen::VectorXd error = half_step * above_zero;
    if (nf && fast) error += (scaled + 2 * half_step) * scale * (0.5 / 127);
    error += (scaled + 2 * half_step) * size * static_cast<double>(q.cols + 12) * 0x1p-24;
    expected.error.col(i) = 1.0001 * error;
  }
  return expected;
}

/// Whether a pass of so many tokens is multiplied in bfloat16.
inline bool in_bfloat16(const QuantizedMatrix& q, Numerics numerics, std::int64_t tokens) {
  using namespace detail::matmul;
  return tile_products(q.format, q.tiling(), tokens, numerics) == TileProducts::bfloat16;
}

/// Half an ulp, relative.
template <class T>
inline constexpr double kRounding = std::is_same_v<T, half>       ? 0x1p-11
                                    : std::is_same_v<T, bfloat16> ? 0x1p-8
                                                                  : 0x1p-24;

}  // namespace sinq::test
