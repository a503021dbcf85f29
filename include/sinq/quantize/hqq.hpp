// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>
#include <type_traits>
#include <vector>

#include "../core/two_lanes.hpp"
#include "elementary.hpp"
#include "rounding.hpp"
#include "rules.hpp"

// HQQ refinement (https://mobiusml.github.io/hqq_blog, as the Python reference of SINQ runs it on the balanced tile):
// with the scale fixed, alternate
//
//   e     = shrink(x - restored)        shrink(d) = sign(d) max(0, |d| - |d|^(p-1) / beta)
//   zero  = mean over the group of  code - (x - e) / scale
//
// for `iterations` rounds and keep, for the whole tile, the zeros of the round with the smallest mean |x - restored|.

namespace sinq::inline SINQ_ABI::detail::quantize {

#define SINQ_SHARED [[gnu::always_inline]] inline
#include "hqq_step.inc"
#undef SINQ_SHARED

/// The reference's first choice for HQQ: as min_max, with a fractional zero. (The reference also bounds 1 / scale by
/// 2e4 and gives up on ranges below 1e-4; both would flatten matrices of small weights, so neither is done here.)
[[nodiscard]] inline ScaleZero hqq_first_choice(const Range& x, int bits, Aux zero_aux) noexcept {
  const ScaleZero a = min_max(x, bits, zero_aux);
  if (a.scale == 0) return a;
  return {a.scale, 0.0f - x.low / a.scale};
}

[[nodiscard]] inline HqqShrinkage shrinkage_of(int bits, const HqqOptions& o) noexcept {
  return {static_cast<float>((1 << bits) - 1), static_cast<float>(o.p - 1), static_cast<float>(1 / o.beta)};
}

struct HqqRound {
  /// One round on all rows of a tile: new zeros from old ones. Returns the sum of |x - restored|, restored with the old
  /// ones.
  template <int kWidth>
  [[gnu::always_inline]] static double run(const float* x, std::int64_t cols, std::span<const ScaleZero> rows,
                                           float* new_zeros, const HqqShrinkage& shrinkage) noexcept {
    using Sixteen = core::ManyLanes<kWidth, 16>;
    // A step is a chain of some 60 operations, each of which waits for the one before it: up to 8 side by side.
    constexpr int kMany = std::min(64, 8 * kWidth);
    using Many = core::ManyLanes<kWidth, kMany>;
    alignas(64) static constexpr float kIndex[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    double total = 0;
    for (std::size_t i = 0; i < rows.size(); ++i, x += core::padded(cols)) {
      const ScaleZero of = rows[i];
      new_zeros[i] = of.zero;
      if (of.scale < kHqqLeastScale) continue;
      Sixteen error;
      Sixteen sum;
      std::int64_t j = 0;
      for (; j + kMany <= cols; j += kMany) {
        const auto step = HqqStep<Many>::of(shrinkage, Many::load(x + j), of.scale, 1 / of.scale, of.zero);
        add<Sixteen>(step.size, error);
        add<Sixteen>(step.wanted, sum);
      }
      for (; j < cols; j += core::kLanes) {
        const auto step = HqqStep<Sixteen>::of(shrinkage, Sixteen::load(x + j), of.scale, 1 / of.scale, of.zero);
        const auto counts = Sixteen::load(kIndex) < Sixteen(static_cast<float>(cols - j));
        error = error + Sixteen::select(counts, step.size, 0);
        sum = sum + Sixteen::select(counts, step.wanted, 0);
      }
      total += double{error.fold(core::Plus{})};
      new_zeros[i] = sum.fold(core::Plus{}) / static_cast<float>(cols);
    }
    return total;
  }

 private:
  /// Sixteen after sixteen.
  template <class Sixteen, class Float>
  [[gnu::always_inline]] static void add(const Float& v, Sixteen& sum) noexcept {
    if constexpr (std::is_same_v<Float, Sixteen>) {
      sum = sum + v;
    } else {
      add(v.low, sum);
      add(v.high, sum);
    }
  }
};

/// Refines the zeros of one tile in place: `x` holds rows.size() x padded(cols) floats, `rows` their scales and zeros.
inline void refine_hqq(const float* x, std::int64_t cols, std::span<ScaleZero> rows, int bits, const HqqOptions& o) {
  std::vector<float> zeros(rows.size());
  std::vector<float> best(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) best[i] = rows[i].zero;
  double best_error = INFINITY;
  for (int k = 0; k < o.iterations; ++k) {
    const double error =
        core::on_isa<HqqRound>(x, cols, std::span<const ScaleZero>(rows), zeros.data(), shrinkage_of(bits, o));
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i].zero = zeros[i];
    if (!(error < best_error)) continue;
    best_error = error;
    best = zeros;
  }
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].zero = best[i];
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
