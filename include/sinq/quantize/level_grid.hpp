// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "../core.hpp"

namespace sinq::inline SINQ_ABI::detail::quantize {

/// A codebook cut into cells of one width, of which none has more than one boundary between levels. So a position is
/// compared with a single boundary, where a binary search (Lanes::nearest_level) waits for up to four comparisons in
/// turn. What comes out is the same.
///
///   boundaries   |   |  |  | | |  |  |   |    |
///   cells       0 . . . . . . . . . . . . . . . 31     the first begins at -infinity, the last one never ends
struct LevelGrid {
  static constexpr int kCells = 32;
  static constexpr float kWhole = 0x1.8p23f;  // from here on floats are integers, which their low bits count

  LevelGrid() = default;
  /// `middle`: the ascending boundaries between the levels. Not usable where two of them are too close, or where levels
  /// are so few (below 8) that comparing with every boundary takes less.
  LevelGrid(const float* level, const float* middle, int levels) noexcept {
    const int last = levels - 2;
    if (levels < 8 || !(middle[0] < middle[last])) return;
    usable = true;
    scale = (kCells - 1) / (middle[last] - middle[0]);
    offset = kWhole - std::round(middle[0] * scale);
    // A position on the edge of two cells may be found in either. Integer levels are at most 128 in magnitude and one
    // apart, so that no position between boundaries is beyond 128 * 31 cells: a product of floats is 2^-24 of that off.
    constexpr double kEdge = 1e-3;
    const auto place = [&](int k) { return double{middle[k]} * double{scale} + (double{offset} - double{kWhole}); };
    for (int cell = 0, first = 0; cell < kCells; ++cell) {
      while (first <= last && place(first) < cell - 0.5 - kEdge) ++first;
      int end = first;
      while (end <= last && place(end) <= cell + 0.5 + kEdge) ++end;
      usable = usable && end - first <= 1;
      boundary[cell] = end > first ? middle[first] : INFINITY;
      below[cell] = level[first];
      above[cell] = level[end > first ? first + 1 : first];
    }
  }

  /// The level nearest to a position, of two the lower one.
  template <class Float>
  [[gnu::always_inline]] Float nearest(const Float& position) const noexcept {
    const Float cell = clamp(position * scale + offset, kWhole, kWhole + (kCells - 1));
    return Float::select(Float::lookup(boundary, cell) < position, Float::lookup(above, cell),
                         Float::lookup(below, cell));
  }

  bool usable = false;
  float scale = 0;   // cells per unit
  float offset = 0;  // so that position * scale + offset, rounded, is kWhole in cell 0
  float boundary[kCells] = {};
  float below[kCells] = {};
  float above[kCells] = {};
};

}  // namespace sinq::inline SINQ_ABI::detail::quantize
