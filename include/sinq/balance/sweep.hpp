// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

using core::kLanes;
using core::padded;

inline constexpr std::int64_t kSweepRows = 128;

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
  for (std::int64_t i = 0; i < rows; ++i) {
    const __m256 r = _mm256_set1_ps(row_inverse[i]);
    __m256 sum[2] = {};
    __m256 square[2] = {};
    for (std::int64_t j = 0; j < stride; j += kLanes) {
      for (int h = 0; h < 2; ++h) {
        const std::int64_t at = j + 8 * h;
        const __m256 v = _mm256_loadu_ps(w + i * stride + at);
        const __m256 c = _mm256_loadu_ps(col_inverse + at);
        const __m256 t = _mm256_mul_ps(v, c);
        const __m256 u = _mm256_mul_ps(v, r);
        sum[h] = _mm256_fmadd_ps(v, c, sum[h]);
        square[h] = _mm256_fmadd_ps(t, t, square[h]);
        _mm256_storeu_ps(sums.col_sum + at, _mm256_fmadd_ps(v, r, _mm256_loadu_ps(sums.col_sum + at)));
        _mm256_storeu_ps(sums.col_square + at, _mm256_fmadd_ps(u, u, _mm256_loadu_ps(sums.col_square + at)));
      }
    }
    alignas(32) float lanes[2][kLanes];
    for (int h = 0; h < 2; ++h) {
      _mm256_store_ps(lanes[0] + 8 * h, sum[h]);
      _mm256_store_ps(lanes[1] + 8 * h, square[h]);
    }
    sums.row_sum[i] = fold(lanes[0]);
    sums.row_square[i] = fold(lanes[1]);
  }
}

/// A tile of kChunks * 16 columns, whose column sums stay in registers.
template <int kChunks>
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]] inline void sweep_avx512_narrow(
    const float* w, std::int64_t rows, const float* row_inverse, const float* col_inverse, SweepSums sums) noexcept {
  __m512 col_sum[kChunks];
  __m512 col_square[kChunks];
  for (int k = 0; k < kChunks; ++k) {
    col_sum[k] = _mm512_loadu_ps(sums.col_sum + 16 * k);
    col_square[k] = _mm512_loadu_ps(sums.col_square + 16 * k);
  }
  for (std::int64_t i = 0; i < rows; ++i, w += 16 * kChunks) {
    const __m512 r = _mm512_set1_ps(row_inverse[i]);
    __m512 sum = _mm512_setzero_ps();
    __m512 square = _mm512_setzero_ps();
    for (int k = 0; k < kChunks; ++k) {
      const __m512 v = _mm512_loadu_ps(w + 16 * k);
      const __m512 c = _mm512_loadu_ps(col_inverse + 16 * k);
      const __m512 t = _mm512_mul_ps(v, c);
      const __m512 u = _mm512_mul_ps(v, r);
      sum = _mm512_fmadd_ps(v, c, sum);
      square = _mm512_fmadd_ps(t, t, square);
      col_sum[k] = _mm512_fmadd_ps(v, r, col_sum[k]);
      col_square[k] = _mm512_fmadd_ps(u, u, col_square[k]);
    }
    // Both folds at once: 16 -> 8 each, side by side in one register, then 8 -> 4 -> 2 -> 1.
    // (Shuffles are the compiler's own: g++ 12 warns inside the headers of several intrinsics.)
    const __m256 s8 = __builtin_shufflevector(sum, sum, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(sum, sum, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m256 q8 = __builtin_shufflevector(square, square, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(square, square, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512 both = __builtin_shufflevector(s8, q8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    both += __builtin_shufflevector(both, both, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    both += __builtin_shufflevector(both, both, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    both += __builtin_shufflevector(both, both, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    sums.row_sum[i] = both[0];
    sums.row_square[i] = both[8];
  }
  for (int k = 0; k < kChunks; ++k) {
    _mm512_storeu_ps(sums.col_sum + 16 * k, col_sum[k]);
    _mm512_storeu_ps(sums.col_square + 16 * k, col_square[k]);
  }
}

inline void sweep_avx512(const float* w, std::int64_t rows, std::int64_t stride, const float* row_inverse,
                         const float* col_inverse, SweepSums sums) noexcept {
  switch (stride) {
    case 16:
      return sweep_avx512_narrow<1>(w, rows, row_inverse, col_inverse, sums);
    case 32:
      return sweep_avx512_narrow<2>(w, rows, row_inverse, col_inverse, sums);
    case 64:
      return sweep_avx512_narrow<4>(w, rows, row_inverse, col_inverse, sums);
    case 128:
      return sweep_avx512_narrow<8>(w, rows, row_inverse, col_inverse, sums);
    default:
      return sweep_avx2(w, rows, stride, row_inverse, col_inverse, sums);
  }
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
