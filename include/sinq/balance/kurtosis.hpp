// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <vector>

#include "../tile.hpp"

namespace sinq::inline SINQ_ABI {

/// Pearson kurtosis of all weights, E[(x - mean)^4] / E[(x - mean)^2]^2: 3 for a normal distribution, large where a few
/// outliers stand out. 0 for a constant matrix. Two passes in double.
/// InvalidArgument on an empty matrix or a weight that is not finite.
[[nodiscard]] inline double kurtosis(const WeightView& w) {
  (void)tiling(w.rows, w.cols, kWholeRow, Tile::stripe);
  std::vector<float> row(static_cast<std::size_t>(w.cols));
  const double count = static_cast<double>(w.rows) * static_cast<double>(w.cols);
  double sum = 0;
  for (std::int64_t i = 0; i < w.rows; ++i) {
    w.load(i, 0, w.cols, row.data());
    detail::core::require_finite(row.data(), w.cols, i, 0);
    for (float x : row) sum += double{x};
  }
  const double mean = sum / count;
  double second = 0;
  double fourth = 0;
  for (std::int64_t i = 0; i < w.rows; ++i) {
    w.load(i, 0, w.cols, row.data());
    for (float x : row) {
      const double d = double{x} - mean;
      const double d2 = d * d;
      second = std::fma(d, d, second);
      fourth = std::fma(d2, d2, fourth);
    }
  }
  second /= count;
  return second == 0 ? 0 : fourth / count / (second * second);
}

}  // namespace sinq::inline SINQ_ABI
