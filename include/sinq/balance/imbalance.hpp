// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "../tile.hpp"
#include "sweep.hpp"

namespace sinq::inline SINQ_ABI {
namespace detail::balance {

/// Sample standard deviation (n - 1 in the denominator, as torch.std) from sums in double. Needs n >= 2.
[[nodiscard]] inline double deviation(double sum, double square, std::int64_t n) noexcept {
  const double count = static_cast<double>(n);
  const double mean_part = sum * sum / count;  // the division keeps this from fusing with the subtraction
  return std::sqrt(std::max(0.0, square - mean_part) / (count - 1));
}

/// Whether `deviation` has lost digits: a sum of squares is off by up to 1e-5 of itself, which is 0.2 % of a variance
/// 512 times smaller. So where the mean exceeds some 20 deviations.
[[nodiscard]] inline bool cancelled(double sum, double square, std::int64_t n) noexcept {
  const double mean_part = sum * sum / static_cast<double>(n);
  return square - mean_part < square / 512;
}

/// Standard deviations along both axes of a tile. An axis along which there is a single element has none: `row` is
/// empty where cols == 1, `col` where rows == 1.
struct Deviations {
  std::vector<double> row;
  std::vector<double> col;

  [[nodiscard]] bool empty() const noexcept { return row.empty() && col.empty(); }
  /// Smallest and largest value of `of` over both axes; the axes must not both be empty.
  template <class F>
  [[nodiscard]] double least(F of) const {
    double best = INFINITY;
    for (const auto* axis : {&row, &col})
      for (double d : *axis) best = std::min(best, of(d));
    return best;
  }

  /// max / min over both axes (paper, section 2.2). The smallest is taken as at least 1e-12, so that a zero row or
  /// column gives a huge but finite number.
  [[nodiscard]] double imbalance() const {
    if (empty()) return 1;
    const double smallest = least([](double d) { return d; });
    const double largest = -least([](double d) { return -d; });
    return largest / std::max(smallest, 1e-12);
  }
};

/// The unit in which a matrix is measured, a power of two: 1, or near the largest weight where squares of floats would
/// overflow or vanish.
[[nodiscard]] inline float unit_of(float largest) noexcept {
  if (largest == 0 || (largest >= 0x1p-40f && largest <= 0x1p16f)) return 1;
  return std::bit_cast<float>(std::max(core::magnitude_bits(largest) & 0x7f80'0000u, 0x0080'0000u));
}

/// Measures tiles; keeps its scratch between calls.
class DeviationMeter {
 public:
  /// `load(first, count)` returns rows [first, first + count) as floats, `padded(cols)` apart and padded with zeros.
  /// They are measured as multiplied by unit * row_inverse[i] * col_inverse[j]; col_inverse is padded as well.
  template <class Load>
  void measure(std::int64_t rows, std::int64_t cols, const float* row_inverse, const float* col_inverse, float unit,
               Load&& load, Deviations& out) {
    const std::int64_t stride = padded(cols);
    const Sweep sweep = choose_sweep();
    row_.assign(2 * kSweepRows, 0);
    col_.assign(static_cast<std::size_t>(2 * stride), 0);
    total_.assign(static_cast<std::size_t>(2 * stride), 0);
    out.row.resize(cols >= 2 ? static_cast<std::size_t>(rows) : 0);
    out.col.resize(rows >= 2 ? static_cast<std::size_t>(cols) : 0);
    bool inexact = false;
    for (std::int64_t first = 0; first < rows; first += kSweepRows) {
      const std::int64_t count = std::min(kSweepRows, rows - first);
      std::fill(col_.begin(), col_.end(), 0.0f);
      sweep(load(first, count), count, stride, row_inverse + first, col_inverse,
            {row_.data(), row_.data() + kSweepRows, col_.data(), col_.data() + stride});
      for (std::size_t k = 0; k < col_.size(); ++k) total_[k] += double{col_[k]};
      if (cols < 2) continue;
      for (std::int64_t i = 0; i < count; ++i) {
        const auto k = static_cast<std::size_t>(i);
        inexact |= cancelled(row_[k], row_[k + kSweepRows], cols);
        out.row[static_cast<std::size_t>(first) + k] =
            double{unit} * double{row_inverse[first + i]} * deviation(row_[k], row_[k + kSweepRows], cols);
      }
    }
    for (std::size_t j = 0; j < out.col.size(); ++j) {
      const double square = total_[j + static_cast<std::size_t>(stride)];
      inexact |= cancelled(total_[j], square, rows);
      out.col[j] = double{unit} * double{col_inverse[j]} * deviation(total_[j], square, rows);
    }
    if (inexact) measure_in_double(rows, cols, row_inverse, col_inverse, unit, load, out);
  }

 private:
  /// The same in two passes and in double, in which products of two floats are exact: nothing here can be fused into
  /// something else.
  template <class Load>
  void measure_in_double(std::int64_t rows, std::int64_t cols, const float* row_inverse, const float* col_inverse,
                         float unit, Load&& load, Deviations& out) {
    const std::int64_t stride = padded(cols);
    const auto variance = [](double squares, std::int64_t n) { return squares / static_cast<double>(n - 1); };
    std::vector<double> mean(static_cast<std::size_t>(cols));
    std::vector<double> squares(mean.size());
    for (int pass = 0; pass < 2; ++pass) {
      for (std::int64_t first = 0; first < rows; first += kSweepRows) {
        const std::int64_t count = std::min(kSweepRows, rows - first);
        const float* block = load(first, count);
        for (std::int64_t i = 0; i < count; ++i) {
          const float* w = block + i * stride;
          const double r = double{row_inverse[first + i]};
          for (std::size_t j = 0; j < mean.size(); ++j) {
            if (pass == 0) {
              mean[j] += double{w[j]} * r;
            } else {
              const double d = double{w[j]} * r - mean[j];
              squares[j] = std::fma(d, d, squares[j]);
            }
          }
          if (pass == 0 || cols < 2) continue;
          double row_mean = 0;
          for (std::int64_t j = 0; j < cols; ++j) row_mean += double{w[j]} * double{col_inverse[j]};
          row_mean /= static_cast<double>(cols);
          double row_squares = 0;
          for (std::int64_t j = 0; j < cols; ++j) {
            const double d = double{w[j]} * double{col_inverse[j]} - row_mean;
            row_squares = std::fma(d, d, row_squares);
          }
          out.row[static_cast<std::size_t>(first + i)] = double{unit} * r * std::sqrt(variance(row_squares, cols));
        }
      }
      if (pass == 0)
        for (double& m : mean) m /= static_cast<double>(rows);
    }
    for (std::size_t j = 0; j < out.col.size(); ++j)
      out.col[j] = double{unit} * double{col_inverse[j]} * std::sqrt(variance(squares[j], rows));
  }

  std::vector<float> row_;
  std::vector<float> col_;
  std::vector<double> total_;
};

}  // namespace detail::balance

/// Imbalance of a whole matrix: the largest standard deviation of a row or column over the smallest (at least 1e-12).
/// 1 for a single weight; an axis of one element does not count. Memory: 128 rows of floats. InvalidArgument on an
/// empty matrix or a weight that is not finite.
[[nodiscard]] inline double imbalance(const WeightView& w) {
  using namespace detail::balance;
  (void)tiling(w.rows, w.cols, kWholeRow, Tile::stripe);
  const auto stride = static_cast<std::size_t>(padded(w.cols));
  std::vector<float> buffer(static_cast<std::size_t>(kSweepRows) * stride);
  float largest = 0;
  for (std::int64_t i = 0; i < w.rows; ++i) {
    w.load(i, 0, w.cols, buffer.data());
    largest = std::max(largest, detail::core::require_finite(buffer.data(), w.cols, i, 0));
  }
  std::fill(buffer.begin(), buffer.end(), 0.0f);
  const float unit = unit_of(largest);
  const std::vector<float> ones(std::max(stride, static_cast<std::size_t>(w.rows)), 1.0f);
  Deviations deviations;
  DeviationMeter().measure(
      w.rows, w.cols, ones.data(), ones.data(), unit,
      [&](std::int64_t first, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) {
          float* row = buffer.data() + static_cast<std::size_t>(i) * stride;
          w.load(first + i, 0, w.cols, row);
          for (std::int64_t j = 0; j < w.cols; ++j) row[j] /= unit;
        }
        return buffer.data();
      },
      deviations);
  return deviations.imbalance();
}

}  // namespace sinq::inline SINQ_ABI
