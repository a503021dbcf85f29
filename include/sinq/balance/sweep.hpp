// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "../core.hpp"

// One pass over a tile that yields the sums from which the standard deviations of all rows and all columns of
// w[i,j] * row_inverse[i] * col_inverse[j] follow:
//
//   row i:  sum and sum of squares over j of  w[i,j] col_inverse[j]     (row_inverse[i] is a factor of the whole row)
//   col j:  sum and sum of squares over i of  w[i,j] row_inverse[i]
//
// The order of every addition is part of the definition, so that each instruction set gives the same bits: a row is
// summed in 16 lanes (lane = j mod 16) that are then folded in halves; a column is summed in float over blocks of
// kSweepRows rows, and the blocks in double (by the caller). All sums use fused multiply-add explicitly, and the plain
// products feed nothing but squares, so there is no mul-then-add that a compiler could fuse or not as it likes.
// -ffast-math in the including translation unit voids this.
//
// One pass costs digits where the mean of a row or column is large beside its deviation, as weights never have it: the
// meter then takes two passes in double (imbalance.hpp).

namespace sinq::inline SINQ_ABI::detail::balance {

inline constexpr std::int64_t kLanes = 16;
inline constexpr std::int64_t kSweepRows = 128;

/// Columns of a tile buffer are padded with zeros to a multiple of kLanes.
[[nodiscard]] constexpr std::int64_t padded(std::int64_t cols) noexcept {
  return (cols + kLanes - 1) / kLanes * kLanes;
}

struct SweepSums {
  float* row_sum;     // per row of the block
  float* row_square;  //
  float* col_sum;     // per padded column, added to
  float* col_square;  //
};

/// Folds 16 lanes: halves onto each other, 16 -> 8 -> 4 -> 2 -> 1.
[[gnu::always_inline]] inline float fold(float* lanes) noexcept {
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

[[gnu::always_inline]] inline void sweep_body(const float* __restrict w, std::int64_t rows, std::int64_t stride,
                                              const float* __restrict row_inverse, const float* __restrict col_inverse,
                                              SweepSums sums) noexcept {
  float* __restrict col_sum = sums.col_sum;
  float* __restrict col_square = sums.col_square;
  for (std::int64_t i = 0; i < rows; ++i) {
    const float r = row_inverse[i];
    float sum[kLanes] = {};
    float square[kLanes] = {};
    for (std::int64_t j = 0; j < stride; j += kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        const float v = w[i * stride + j + l];
        const float c = col_inverse[j + l];
        const float t = v * c;
        const float u = v * r;
        sum[l] = std::fma(v, c, sum[l]);
        square[l] = std::fma(t, t, square[l]);
        col_sum[j + l] = std::fma(v, r, col_sum[j + l]);
        col_square[j + l] = std::fma(u, u, col_square[j + l]);
      }
    }
    sums.row_sum[i] = fold(sum);
    sums.row_square[i] = fold(square);
  }
}

using Sweep = void (*)(const float* w, std::int64_t rows, std::int64_t stride, const float* row_inverse,
                       const float* col_inverse, SweepSums sums) noexcept;

inline void sweep_portable(const float* w, std::int64_t rows, std::int64_t stride, const float* row_inverse,
                           const float* col_inverse, SweepSums sums) noexcept {
  sweep_body(w, rows, stride, row_inverse, col_inverse, sums);
}

#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] inline void sweep_avx2(const float* w, std::int64_t rows, std::int64_t stride,
                                                   const float* row_inverse, const float* col_inverse,
                                                   SweepSums sums) noexcept {
  sweep_body(w, rows, stride, row_inverse, col_inverse, sums);
}
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,fma")]] inline void sweep_avx512(const float* w, std::int64_t rows,
                                                                                   std::int64_t stride,
                                                                                   const float* row_inverse,
                                                                                   const float* col_inverse,
                                                                                   SweepSums sums) noexcept {
  sweep_body(w, rows, stride, row_inverse, col_inverse, sums);
}
#endif

[[nodiscard]] inline Sweep choose_sweep() noexcept {
#if defined(__x86_64__)
  if (current_isa() == Isa::avx512) return sweep_avx512;
  if (current_isa() == Isa::avx2) return sweep_avx2;
#endif
  return sweep_portable;
}

}  // namespace sinq::inline SINQ_ABI::detail::balance
