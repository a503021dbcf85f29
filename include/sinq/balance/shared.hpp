// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "sinkhorn.hpp"

namespace sinq::inline SINQ_ABI {

/// How `shared_col_scale` balances.
struct SharedOptions {
  std::int64_t group_size = 64;  // columns balanced at a time: a multiple of 16 from 16 to 256, or kWholeRow
  SinkhornOptions sinkhorn{};
  /// Rounds every factor to the nearest power of two: dividing by it loses no bit of a floating-point weight (unless
  /// that leaves the type's range), at the price of columns that are up to sqrt(2) off balance.
  bool powers_of_two = false;
  /// The caller's threads; null: the calling thread alone. The result has the same bits either way.
  Executor* executor = nullptr;
};

/// What matrices that share an input have in common.
struct SharedBalance {
  std::vector<float> col;       // one factor per input column, median 1
  double imbalance_before = 1;  // of the stacked matrix with and without row and column factors, mean over groups
  double imbalance_after = 1;   //
};

namespace detail::balance {

/// 2^k with f / 2^k in [sqrt(1/2), sqrt(2)).
[[nodiscard]] inline float nearest_power_of_two(float f) noexcept {
  int exponent = 0;
  const float mantissa = std::frexp(f, &exponent);  // in [1/2, 1)
  return std::ldexp(1.0f, mantissa < 0.70710678f ? exponent - 1 : exponent);
}

/// The upper one of an even number.
[[nodiscard]] inline float median(std::vector<float> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Columns [first, first + cols) of all matrices, one below the other, `padded(cols)` apart.
[[nodiscard]] inline std::vector<float> stacked(std::span<const WeightView> matrices, std::int64_t rows,
                                                std::int64_t first, std::int64_t cols) {
  const std::int64_t stride = core::padded(cols);
  std::vector<float> tile(static_cast<std::size_t>(rows * stride));
  float* at = tile.data();
  for (std::size_t k = 0; k < matrices.size(); ++k) {
    const WeightView& w = matrices[k];
    w.load(0, w.rows, first, cols, at, stride);
    core::require_finite(at, w.rows, cols, stride, 0, first, core::text("matrices[", k, "]"));
    at += w.rows * stride;
  }
  return tile;
}

/// The imbalance that is left with these factors.
[[nodiscard]] inline double imbalance_with(std::vector<float> tile, std::int64_t rows, std::int64_t cols,
                                           const std::vector<float>& row, const float* col) {
  const std::int64_t stride = core::padded(cols);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j)
      tile[static_cast<std::size_t>(i * stride + j)] /= row[static_cast<std::size_t>(i)] * col[j];
  return imbalance(WeightView(tile.data(), DType::f32, rows, cols, stride));
}

}  // namespace detail::balance

/// One factor per input column for matrices that share an input (query, key and value; gate and up): what balances
/// them stacked one below the other, group of columns by group, as the reference's Pre-SINQ does.
///
///     [ W1 ]                                y1 = W1 x = (W1 / col) (col x)
///     [ W2 ]  ~  row col,   median col = 1  y2 = W2 x = (W2 / col) (col x)
///
/// So where `col` is multiplied into what makes x (the weights of a norm, the rows of a linear layer before), the
/// divided matrices compute the same, are balanced, and need no second axis of their own: rounding loses less in any
/// format. One matrix of its own balances better than several with one factor (bench/results/quality.md); this is for
/// formats and engines that have no second axis.
///
/// Memory: all rows of one group of columns as floats, per thread. InvalidArgument on no matrix, matrices of different
/// cols, more than 2^31 - 1 rows, null pointers, a stride below cols, a weight that is not finite, or options out of
/// range.
[[nodiscard]] inline SharedBalance shared_col_scale(std::span<const WeightView> matrices,
                                                    const SharedOptions& options = {}) {
  using namespace detail;
  balance::validate(options.sinkhorn);
  core::require(!matrices.empty(), "matrices.size()", 0, "must be at least 1");
  std::int64_t rows = 0;
  for (std::size_t k = 0; k < matrices.size(); ++k) {
    const WeightView& w = matrices[k];
    const auto require = [&](bool ok, const char* name, std::int64_t value, const char* limit) {
      if (!ok) core::raise<InvalidArgument>(core::text("sinq: matrices[", k, "].", name, " = ", value, ": ", limit));
    };
    require(w.rows >= 1, "rows", w.rows, "must be at least 1");
    require(w.cols == matrices[0].cols, "cols", w.cols, "must be the same for all matrices");
    core::require_view(w, "matrices[", k, "]");
    rows += w.rows;
  }
  const Tiling t = tiling(rows, matrices[0].cols, options.group_size, Tile::stripe);
  const auto groups = static_cast<std::size_t>(t.groups());
  const auto count = static_cast<double>(groups);
  SerialExecutor serial;
  Executor& threads = options.executor ? *options.executor : serial;

  SharedBalance result;
  result.col.resize(static_cast<std::size_t>(t.cols));
  std::vector<Balance> found(groups);
  core::run_throwing(threads, t.groups(), [&](std::int64_t g, int) {
    const std::int64_t first = t.group_begin(g);
    const std::vector<float> tile = balance::stacked(matrices, rows, first, t.group_cols(g));
    Balance& b = found[static_cast<std::size_t>(g)];
    const float largest = core::largest_magnitude(tile.data(), std::ssize(tile));
    b = balance::sinkhorn_tile(tile.data(), largest, rows, t.group_cols(g), options.sinkhorn);
    std::copy(b.col.begin(), b.col.end(), result.col.begin() + first);
  });
  const float median = balance::median(result.col);
  for (float& c : result.col) c = options.powers_of_two ? balance::nearest_power_of_two(c / median) : c / median;
  if (options.powers_of_two)
    core::run_throwing(threads, t.groups(), [&](std::int64_t g, int) {
      Balance& b = found[static_cast<std::size_t>(g)];
      const std::int64_t first = t.group_begin(g);
      b.imbalance_after = balance::imbalance_with(balance::stacked(matrices, rows, first, t.group_cols(g)), rows,
                                                  t.group_cols(g), b.row, result.col.data() + first);
    });
  result.imbalance_before = result.imbalance_after = 0;
  for (const Balance& b : found) {
    result.imbalance_before += b.imbalance_before / count;
    result.imbalance_after += b.imbalance_after / count;
  }
  return result;
}

}  // namespace sinq::inline SINQ_ABI
