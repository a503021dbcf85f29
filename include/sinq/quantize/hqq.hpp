// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

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
    using Float = core::Lanes<kWidth>;
    alignas(64) static constexpr float kIndex[core::kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    double total = 0;
    for (std::size_t i = 0; i < rows.size(); ++i, x += core::padded(cols)) {
      new_zeros[i] = rows[i].zero;
      if (rows[i].scale < kHqqLeastScale) continue;
      const Float scale = rows[i].scale;
      const Float zero = rows[i].zero;
      const Float inverse = 1 / rows[i].scale;
      core::SixteenLanes<kWidth> error;
      core::SixteenLanes<kWidth> sum;
      for (std::int64_t j = 0; j < cols; j += core::kLanes) {
        for (std::size_t k = 0; k < error.size(); ++k) {
          const auto offset = static_cast<std::int64_t>(k) * kWidth;
          const auto step = HqqStep<Float>::of(shrinkage, Float::load(x + j + offset), scale, inverse, zero);
          const auto counts = Float::load(kIndex + offset) < Float(static_cast<float>(cols - j));
          error[k] = error[k] + Float::select(counts, step.size, 0);
          sum[k] = sum[k] + Float::select(counts, step.wanted, 0);
        }
      }
      total += double{core::fold<kWidth>(error, core::Plus{})};
      new_zeros[i] = core::fold<kWidth>(sum, core::Plus{}) / static_cast<float>(cols);
    }
    return total;
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
