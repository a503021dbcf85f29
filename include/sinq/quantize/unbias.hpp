// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cmath>
#include <span>
#include <vector>

#include "../core.hpp"

// Least squares shrinks: what is restored, y, has less variance than the weights, x, by the share of the error, every
// layer shrinks a little, and that adds up. With the codes kept, each row's scales, then each column's scale, are
// multiplied by
//
//   gain = <x, x> / <x, y>        so that <gain y, x> = <x, x>: the restored row or column is as long along x as x is
//
// (at 2 bits by its square root, which measured best). Rows of a column sum count by 1 / |row|^2, as in the balanced
// domain they should. Products of two floats are exact in double, so no compiler can round these sums in two ways.

namespace sinq::inline SINQ_ABI::detail::quantize {

#define SINQ_SHARED inline
#include "overlap.inc"
#undef SINQ_SHARED

struct OverlapOf {
  /// Of two rows; rows are padded with zeros.
  template <int kWidth>
  [[gnu::always_inline]] static Overlap run(const float* x, const float* y, std::int64_t cols) noexcept {
    using Float = core::Lanes<kWidth>;
    std::array<core::DoubleLanes<kWidth>, core::kLanes / kWidth> xx;
    std::array<core::DoubleLanes<kWidth>, core::kLanes / kWidth> xy;
    for (std::int64_t j = 0; j < cols; j += core::kLanes) {
      for (std::size_t k = 0; k < xx.size(); ++k) {
        const auto at = j + static_cast<std::int64_t>(k) * kWidth;
        const Float v = Float::load(x + at);
        xx[k].add_product(v, v);
        xy[k].add_product(v, Float::load(y + at));
      }
    }
    return {total<kWidth>(xx), total<kWidth>(xy)};
  }

 private:
  template <int kWidth, class Sums>
  [[gnu::always_inline]] static double total(const Sums& sums) noexcept {
    double lanes[core::kLanes];
    for (std::size_t k = 0; k < sums.size(); ++k) sums[k].store(lanes + k * kWidth);
    for (int half = 8; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    return lanes[0];
  }
};

/// The overlaps of all columns (room for padded(cols)).
struct ColumnOverlaps {
  std::vector<double> xx;
  std::vector<double> xy;

  explicit ColumnOverlaps(std::int64_t cols)
      : xx(static_cast<std::size_t>(core::padded(cols))), xy(static_cast<std::size_t>(core::padded(cols))) {}

  /// Adds a row of weights and of what is restored of them, times a factor each.
  void add(const float* x, float x_factor, const float* y, float y_factor) noexcept {
    core::on_isa<ColumnOverlaps>(xx.data(), xy.data(), xx.size(), x, x_factor, y, y_factor);
  }
  void add(const ColumnOverlaps& other) noexcept {
    for (std::size_t j = 0; j < xx.size(); ++j) {
      xx[j] += other.xx[j];
      xy[j] += other.xy[j];
    }
  }
  [[nodiscard]] Overlap operator[](std::size_t j) const noexcept { return {xx[j], xy[j]}; }

  template <int kWidth>
  [[gnu::always_inline]] static void run(double* to_xx, double* to_xy, std::size_t cols, const float* x, float x_factor,
                                         const float* y, float y_factor) noexcept {
    using Float = core::Lanes<kWidth>;
    for (std::size_t j = 0; j < cols; j += kWidth) {
      const Float v = Float::load(x + j) * x_factor;
      core::DoubleLanes<kWidth> xx;
      core::DoubleLanes<kWidth> xy;
      xx.load(to_xx + j);
      xy.load(to_xy + j);
      xx.add_product(v, v);
      xy.add_product(v, Float::load(y + j) * y_factor);
      xx.store(to_xx + j);
      xy.store(to_xy + j);
    }
  }
};

}  // namespace sinq::inline SINQ_ABI::detail::quantize
