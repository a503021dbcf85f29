// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "rounding.hpp"
#include "rules.hpp"
#ifndef SINQ_EXTERN_KERNELS
#include "hqq_round.hpp"
#endif

// HQQ refinement (https://mobiusml.github.io/hqq_blog, as the Python reference of SINQ runs it on the balanced tile):
// with the scale fixed, alternate
//
//   e     = shrink(x - restored)        shrink(d) = sign(d) max(0, |d| - |d|^(p-1) / beta)
//   zero  = mean over the group of  code - (x - e) / scale
//
// for `iterations` rounds and keep, for the whole tile, the zeros of the round with the smallest mean |x - restored|.

namespace sinq::inline SINQ_ABI::detail::quantize {

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

#ifdef SINQ_EXTERN_KERNELS  // else it has been defined above
/// One round on all rows of a tile (x: rows.size() x padded(cols)): new zeros from old ones. Returns the sum of
/// |x - restored|, restored with the old ones (hqq_round.hpp).
SINQ_KERNEL double hqq_round(const float* x, std::int64_t cols, std::span<const ScaleZero> rows, float* new_zeros,
                             const HqqShrinkage& shrinkage) noexcept;
#endif

/// Refines the zeros of one tile in place: `x` holds rows.size() x padded(cols) floats, `rows` their scales and zeros.
inline void refine_hqq(const float* x, std::int64_t cols, std::span<ScaleZero> rows, int bits, const HqqOptions& o) {
  std::vector<float> zeros(rows.size());
  std::vector<float> best(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) best[i] = rows[i].zero;
  double best_error = INFINITY;
  for (int k = 0; k < o.iterations; ++k) {
    const double error = hqq_round(x, cols, rows, zeros.data(), shrinkage_of(bits, o));
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i].zero = zeros[i];
    if (!(error < best_error)) continue;
    best_error = error;
    best = zeros;
  }
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].zero = best[i];
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
