// SPDX-License-Identifier: Apache-2.0
#pragma once

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

/// <x, x> and <x, y>.
struct Overlap {
  double xx = 0;
  double xy = 0;

  void add(float x, float y) noexcept {
    xx += double{x} * double{x};
    xy += double{x} * double{y};
  }
  /// The gain; 1 where there is nothing to learn or it lies beyond [least, most]: then the codes say little about x.
  [[nodiscard]] float gain(int bits, double least, double most) const noexcept {
    if (!(xy > 0)) return 1;
    const double full = xx / xy;
    const double g = bits == 2 ? std::sqrt(full) : full;
    return g >= least && g <= most ? static_cast<float>(g) : 1.0f;
  }
};

}  // namespace sinq::inline SINQ_ABI::detail::quantize
