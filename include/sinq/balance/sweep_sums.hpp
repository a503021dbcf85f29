// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../core.hpp"

namespace sinq::inline SINQ_ABI::detail::balance {

inline constexpr std::int64_t kSweepRows = 128;

struct SweepSums {
  float* row_sum;     // per row of the block, with room for a multiple of core::kLanes
  float* row_square;  //
  float* col_sum;     // per padded column
  float* col_square;  //
};

/// The sums of a block of up to kSweepRows rows, `stride` (a multiple of core::kLanes) floats each (sweep.hpp).
SINQ_KERNEL void sweep(const float* w, std::int64_t rows, std::int64_t stride, const float* row_inverse,
                       const float* col_inverse, const SweepSums& sums) noexcept;

}  // namespace sinq::inline SINQ_ABI::detail::balance
