// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <vector>

#include "../tile.hpp"

namespace sinq::inline SINQ_ABI {

namespace detail::balance {

/// One term per weight of a row, added up in 16 lanes (lane = column mod 16) that are then folded in halves; rows are
/// added in their order. A device can do the same.
class OrderedSum {
 public:
  [[nodiscard]] double& lane(std::size_t col) noexcept { return lanes_[col % lanes_.size()]; }
  void end_row() noexcept {
    for (std::size_t half = lanes_.size() / 2; half > 0; half /= 2)
      for (std::size_t l = 0; l < half; ++l) lanes_[l] += lanes_[l + half];
    total_ += lanes_[0];
    lanes_ = {};
  }
  [[nodiscard]] double total() const noexcept { return total_; }

 private:
  std::array<double, core::kLanes> lanes_{};
  double total_ = 0;
};

/// From the sums of (x - mean)^2 and (x - mean)^4.
[[nodiscard]] inline double kurtosis_of(double second, double fourth, double count) noexcept {
  second /= count;
  return second == 0 ? 0 : fourth / count / (second * second);
}

}  // namespace detail::balance

/// Pearson kurtosis of all weights, E[(x - mean)^4] / E[(x - mean)^2]^2: 3 for a normal distribution, large where a few
/// outliers stand out. 0 for a constant matrix. Two passes in double.
/// InvalidArgument on an empty matrix, a null pointer, a stride below cols or a weight that is not finite.
[[nodiscard]] inline double kurtosis(const WeightView& w) {
  using detail::balance::OrderedSum;
  (void)tiling(w.rows, w.cols, kWholeRow, Tile::stripe);
  detail::core::require_view(w, "weights");
  std::vector<float> row(static_cast<std::size_t>(w.cols));
  const double count = static_cast<double>(w.rows) * static_cast<double>(w.cols);
  OrderedSum sum;
  for (std::int64_t i = 0; i < w.rows; ++i) {
    w.load(i, 0, w.cols, row.data());
    detail::core::require_finite(row.data(), w.cols, i, 0);
    for (std::size_t j = 0; j < row.size(); ++j) sum.lane(j) += double{row[j]};
    sum.end_row();
  }
  const double mean = sum.total() / count;
  OrderedSum second;
  OrderedSum fourth;
  for (std::int64_t i = 0; i < w.rows; ++i) {
    w.load(i, 0, w.cols, row.data());
    for (std::size_t j = 0; j < row.size(); ++j) {
      const double d = double{row[j]} - mean;
      const double d2 = d * d;
      second.lane(j) = std::fma(d, d, second.lane(j));
      fourth.lane(j) = std::fma(d2, d2, fourth.lane(j));
    }
    second.end_row();
    fourth.end_row();
  }
  return detail::balance::kurtosis_of(second.total(), fourth.total(), count);
}

}  // namespace sinq::inline SINQ_ABI
