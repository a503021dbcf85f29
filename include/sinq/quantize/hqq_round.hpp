// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>
#include <type_traits>

#include "../core/two_lanes.hpp"
#include "elementary.hpp"
#include "rounding.hpp"
#include "rules.hpp"

// The kernel of HQQ (hqq.hpp).

namespace sinq::inline SINQ_ABI::detail::quantize {

#define SINQ_SHARED [[gnu::always_inline]] inline
#include "hqq_step.inc"
#undef SINQ_SHARED

struct HqqRound {
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

SINQ_KERNEL double hqq_round(const float* x, std::int64_t cols, std::span<const ScaleZero> rows, float* new_zeros,
                             const HqqShrinkage& shrinkage) noexcept {
  return core::on_isa<HqqRound>(x, cols, rows, new_zeros, shrinkage);
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
