// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "../tile.hpp"
#include "sweep_sums.hpp"
#ifndef SINQ_EXTERN_KERNELS
#include "sweep.hpp"
#endif

namespace sinq::inline SINQ_ABI {
namespace detail::balance {

/// Least and largest of what has been seen.
struct Extremes {
  float least = INFINITY;
  float most = -INFINITY;

  void add(const Extremes& other) noexcept {
    least = std::min(least, other.least);
    most = std::max(most, other.most);
  }
  void add(const float* values, std::int64_t count) noexcept {
    for (const float* v = values; v != values + count; ++v) add({*v, *v});
  }
};

/// Standard deviations along both axes of a tile. An axis along which there is a single element has none: `row` is
/// empty where cols == 1, `col` where rows == 1. Otherwise both have room for a multiple of core::kLanes.
struct Deviations {
  std::vector<float> row;
  std::vector<float> col;
  Extremes extremes;

  [[nodiscard]] bool empty() const noexcept { return row.empty() && col.empty(); }

  /// max / min over both axes (paper, section 2.2). The smallest is taken as at least 1e-12, so that a zero row or
  /// column gives a huge but finite number.
  [[nodiscard]] double imbalance() const noexcept {
    return empty() ? 1 : double{extremes.most} / std::max(double{extremes.least}, 1e-12);
  }
};

/// Sample standard deviations (n - 1 in the denominator, as torch.std) from sums over n >= 2 elements, times a unit.
/// Arrays have room for a multiple of core::kLanes.
struct DeviationsOf {
  /// False if one has lost digits: a sum of squares is off by up to 1e-5 of itself, which is 0.2 % of a variance 512
  /// times smaller. So where the mean exceeds some 20 deviations.
  bool exact;
  Extremes extremes;

  template <int kWidth>
  [[gnu::always_inline]] static DeviationsOf run(const float* sum, const float* square, float unit, std::int64_t count,
                                                 std::int64_t n, float* out) noexcept {
    using Float = core::Lanes<kWidth>;
    const Float inverse = 1 / static_cast<float>(n);
    const Float inverse_less_1 = 1 / static_cast<float>(n - 1);
    Float worst;
    Float least = INFINITY;
    Float most = -INFINITY;
    const std::int64_t whole = count / kWidth * kWidth;
    for (std::int64_t k = 0; k < count; k += kWidth) {
      const Float s = Float::load(sum + k);
      const Float squares = Float::load(square + k);
      const Float variance = mul_add(-(s * inverse), s, squares);
      worst = min(worst, mul_add(variance, 512, -squares));
      const Float deviation = sqrt(max(variance, 0) * inverse_less_1) * unit;
      deviation.store(out + k);
      if (k == whole) break;  // what is behind the last one counts for nothing
      least = min(least, deviation);
      most = max(most, deviation);
    }
    DeviationsOf result{!(worst.fold(core::Least{}) < 0), {least.fold(core::Least{}), most.fold(core::Most{})}};
    result.extremes.add(out + whole, count - whole);
    return result;
  }
};

/// total += sums, `count` of them, a multiple of core::kLanes.
struct AddToTotals {
  template <int kWidth>
  [[gnu::always_inline]] static void run(const float* sums, std::int64_t count, double* total) noexcept {
    for (std::int64_t k = 0; k < count; k += kWidth) {
      core::DoubleLanes<kWidth> t;
      t.load(total + k);
      t.add(core::Lanes<kWidth>::load(sums + k));
      t.store(total + k);
    }
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
  /// They are measured as multiplied by unit * row_inverse[i] * col_inverse[j]; both have room for a multiple of
  /// core::kLanes.
  template <class Load>
  void measure(std::int64_t rows, std::int64_t cols, const float* row_inverse, const float* col_inverse, float unit,
               Load&& load, Deviations& out) {
    const std::int64_t stride = core::padded(cols);
    const auto sized = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    row_.resize(2 * kSweepRows);
    col_.resize(sized(2 * stride));
    total_.assign(sized(2 * stride), 0);
    out.row.resize(cols >= 2 ? sized(core::padded(rows)) : 0);
    out.col.resize(rows >= 2 ? sized(stride) : 0);
    bool exact = true;
    out.extremes = {};
    const auto add = [&](const DeviationsOf& part) {
      exact &= part.exact;
      out.extremes.add(part.extremes);
    };
    for (std::int64_t first = 0; first < rows; first += kSweepRows) {
      const std::int64_t count = std::min(kSweepRows, rows - first);
      const SweepSums sums{row_.data(), row_.data() + kSweepRows, col_.data(), col_.data() + stride};
      sweep(load(first, count), count, stride, row_inverse + first, col_inverse, sums);
      core::on_isa<AddToTotals>(col_.data(), 2 * stride, total_.data());
      if (cols >= 2)
        add(core::on_isa<DeviationsOf>(row_.data(), row_.data() + kSweepRows, unit, count, cols,
                                       out.row.data() + first));
    }
    std::transform(total_.begin(), total_.end(), col_.begin(), [](double sum) { return static_cast<float>(sum); });
    if (rows >= 2) add(core::on_isa<DeviationsOf>(col_.data(), col_.data() + stride, unit, cols, rows, out.col.data()));
    if (exact) return;
    measure_in_double(rows, cols, row_inverse, col_inverse, unit, load, out);
    out.extremes = {};
    if (cols >= 2) out.extremes.add(out.row.data(), rows);
    if (rows >= 2) out.extremes.add(out.col.data(), cols);
  }

 private:
  /// The same in two passes and in double, in which products of two floats are exact: nothing here can be fused into
  /// something else.
  template <class Load>
  void measure_in_double(std::int64_t rows, std::int64_t cols, const float* row_inverse, const float* col_inverse,
                         float unit, Load&& load, Deviations& out) {
    const std::int64_t stride = core::padded(cols);
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
          out.row[static_cast<std::size_t>(first + i)] =
              static_cast<float>(double{unit} * r * std::sqrt(variance(row_squares, cols)));
        }
      }
      if (pass == 0)
        for (double& m : mean) m /= static_cast<double>(rows);
    }
    for (std::size_t j = 0; rows >= 2 && j < mean.size(); ++j)
      out.col[j] = static_cast<float>(double{unit} * double{col_inverse[j]} * std::sqrt(variance(squares[j], rows)));
  }

  std::vector<float> row_;
  std::vector<float> col_;
  std::vector<double> total_;
};

}  // namespace detail::balance

/// Imbalance of a whole matrix: the largest standard deviation of a row or column over the smallest (at least 1e-12).
/// 1 for a single weight; an axis of one element does not count. Memory: 128 rows of floats. InvalidArgument on an
/// empty matrix, a null pointer, a stride below cols or a weight that is not finite.
[[nodiscard]] inline double imbalance(const WeightView& w) {
  using namespace detail::balance;
  (void)tiling(w.rows, w.cols, kWholeRow, Tile::stripe);
  detail::core::require_view(w, "weights");
  const auto stride = static_cast<std::size_t>(detail::core::padded(w.cols));
  std::vector<float> buffer(static_cast<std::size_t>(kSweepRows) * stride);
  float largest = 0;
  for (std::int64_t i = 0; i < w.rows; ++i) {
    w.load(i, 0, w.cols, buffer.data());
    largest = std::max(largest, detail::core::require_finite(buffer.data(), w.cols, i, 0));
  }
  std::fill(buffer.begin(), buffer.end(), 0.0f);
  const float unit = unit_of(largest);
  const std::vector<float> ones(std::max(stride, static_cast<std::size_t>(detail::core::padded(w.rows))), 1.0f);
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
