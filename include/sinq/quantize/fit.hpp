// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <span>
#include <vector>

#include "config.hpp"
#include "level_bytes.hpp"
#include "level_grid.hpp"
#include "rounding.hpp"
#include "rules.hpp"

// Scale and zero by least error instead of minimum and maximum, in the balanced domain x = w / col_scale.
//
// Per group, x ~= s level(code) + b with b = -zero s:
//
//   for both signs of s (where the levels are not their own mirror image) and several ranges, from the whole range of
//   the group down to 0.6 of it (2 bits; 0.8 at 3, 0.88 from 4 on): round and solve the least squares for (s, b),
//   `rounds` times; take the error from the same sums; keep the (s, b) of least error.
//   Shrinking the range lets the ends be clipped where that is worth it; the signs let an uneven table meet the longer
//   side.
//
// Per row, where scales are integers below a coarse one: the coarse scale, among 24 between 0.485 and 1.06 times the
// largest fitted scale, that costs least:  sum over groups of  (sum of level^2) (stored - fitted)^2.
//
// Per group again: the stored scale and its two neighbours, each with the zero that fits it best and that one's two
// neighbours; the pair of least error stays. So what the auxiliaries' few bits lose, the codes take back.
//
// Without activations the error is not weighted. In the balanced domain a column counts by its share of the row;
// weighting by col_scale^2 (the plain error of the weights) was clearly worse on every model, weighting by x^2 no
// better (bench/results/quality.md). With them columns count by their importance (importance.hpp). Least squares
// shrinks; unbias.hpp takes that back when the codes are known.

namespace sinq::inline SINQ_ABI::detail::quantize {

/// The rules for matrices of a format, and what is no arithmetic.
struct FitPlan : FitRules {
  FitPlan(const Format& f, const LevelTable& table, const FitOptions& options)
      : scale(f.scale), zero(f.zero), coarse_groups(f.coarse_groups) {
    const int last = (1 << f.bits) - 1;
    starts = options.starts;
    rounds = options.rounds;
    reach = f.bits == 2 ? 0.4f : f.bits == 3 ? 0.2f : 0.12f;
    low = core::level(f.levels, f.bits, table, 0);
    high = core::level(f.levels, f.bits, table, last);
    const bool signed_scale = is_float(f.scale) || f.signed_scale;
    if (is_integer(scale)) most = static_cast<float>((1 << (bits_of(scale) - (signed_scale ? 1 : 0))) - 1);
    place_zeros(core::level_span(f.levels, f.bits));
    const bool codebook = f.levels > Levels::symmetric;
    // A group turned round needs the other sign: of no use to levels that are their own mirror image where a zero can
    // move them.
    both_signs = signed_scale && (codebook || zero == Aux::none);
    if (!codebook) return;
    levels = last + 1;
    for (int code = 0; code <= last; ++code) level[code] = core::level(f.levels, f.bits, table, code);
    for (int code = 0; code < last; ++code) middle[code] = level[code] / 2 + level[code + 1] / 2;
    grid = LevelGrid(level, middle, levels);
    bytes = LevelBytes(level, middle, levels);
  }

  Aux scale;
  Aux zero;
  std::int64_t coarse_groups;
  LevelGrid grid;
  LevelBytes bytes;

 private:
  void place_zeros(const core::LevelSpan& span) noexcept {
    integer_zero = is_integer(zero);
    if (!integer_zero) {
      highest_zero = largest_zero(zero);
      lowest_zero = -highest_zero;
      return;
    }
    const auto count = static_cast<float>(1 << bits_of(zero));
    zero_step = span.width / count;
    last_zero = count - 1;
    lowest_zero = span.low;
    highest_zero = span.low + span.width - zero_step;
  }
};

/// Up to kStrip rows of one panel. Arrays are [..][kStrip]: a lane per row; lanes without a row are zeros.
struct FitStrip {
  const Tiling* tiling;
  float* x;                                 // cols x lanes; the fit scales every group by a power of two, see Group
  float* scale;                             // groups x lanes: the scale as it will be read
  float* zero;                              // groups x lanes: the zero as it will be read
  float* level_squares;                     // groups x lanes, scratch: what an error of the group's scale costs
  float* unit;                              // groups x lanes, scratch
  float* coarse;                            // coarse scales per row x lanes
  std::int32_t* scale_integer;              // groups x lanes, of integer scales
  std::int32_t* zero_integer;               // groups x lanes, of integer zeros
  const float* importance = nullptr;        // of each column, with mean 1 over its group; null: all alike
  const float* group_importance = nullptr;  // of each group beside the others
};

/// Fits every group of the strip (fit_strip.hpp).
SINQ_KERNEL void fit_strip(const FitPlan& plan, const FitStrip& strip) noexcept;

}  // namespace sinq::inline SINQ_ABI::detail::quantize
