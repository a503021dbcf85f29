// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "elementary.hpp"
#include "rounding.hpp"

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
[[nodiscard]] inline ScaleZero hqq_first_choice(std::span<const float> x, int bits, Aux zero_aux) noexcept {
  const float scale = min_max(x, bits, zero_aux).scale;
  const float low = *std::min_element(x.begin(), x.end());
  return {scale, -low / scale};
}

struct HqqRound {
  float error;     // sum of |x - restored| over the group, restored with the zero that came in
  float new_zero;  // the zero that goes out
};

/// One round on one group. Sums run in 16 lanes folded in halves, see balance/sweep.hpp.
[[gnu::always_inline]] inline HqqRound hqq_round_body(const float* x, std::int64_t count, ScaleZero a, float last_code,
                                                      float exponent, float beta_inverse) noexcept {
  constexpr std::int64_t kLanes = balance::kLanes;
  const float inverse = 1 / a.scale;
  float error[kLanes] = {};
  float zero[kLanes] = {};
  for (std::int64_t j = 0; j < count; j += kLanes) {
    const int lanes = static_cast<int>(std::min(kLanes, count - j));
    for (int l = 0; l < lanes; ++l) {
      const float v = x[j + l];
      const float code = std::clamp(std::nearbyint(std::fma(v, inverse, a.zero)), 0.0f, last_code);
      const float difference = std::fma(-(code - a.zero), a.scale, v);  // x - restored
      const float size = std::abs(difference);
      const float clipped = std::clamp(size, 1e-5f, 1e5f);
      const float power = stable_exp2(std::fma(exponent, stable_log2(clipped), 0.0f));
      const float shrunk = std::max(std::fma(-beta_inverse, power, clipped), 0.0f);
      error[l] += size;
      zero[l] += std::fma(-(v - std::copysign(shrunk, difference)), inverse, code);
    }
  }
  return {balance::fold(error), balance::fold(zero) / static_cast<float>(count)};
}

using HqqRoundFunction = HqqRound (*)(const float* x, std::int64_t count, ScaleZero a, float last_code, float exponent,
                                      float beta_inverse) noexcept;

inline HqqRound hqq_round_portable(const float* x, std::int64_t count, ScaleZero a, float last_code, float exponent,
                                   float beta_inverse) noexcept {
  return hqq_round_body(x, count, a, last_code, exponent, beta_inverse);
}
#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] inline HqqRound hqq_round_avx2(const float* x, std::int64_t count, ScaleZero a,
                                                           float last_code, float exponent,
                                                           float beta_inverse) noexcept {
  return hqq_round_body(x, count, a, last_code, exponent, beta_inverse);
}
#endif

[[nodiscard]] inline HqqRoundFunction choose_hqq_round() noexcept {
#if defined(__x86_64__)
  if (current_isa() != Isa::portable) return hqq_round_avx2;
#endif
  return hqq_round_portable;
}

/// Refines the zeros of one tile in place. `x(i)` is row i of the tile, `cols` long; `rows[i]` its scale and zero.
template <class RowOf>
void refine_hqq(RowOf&& x, std::int64_t cols, std::span<ScaleZero> rows, int bits, const HqqOptions& o) {
  const HqqRoundFunction round = choose_hqq_round();
  const auto last_code = static_cast<float>((1 << bits) - 1);
  const auto exponent = static_cast<float>(o.p - 1);
  const auto beta_inverse = static_cast<float>(1 / o.beta);
  std::vector<float> best(rows.size());
  double best_error = INFINITY;
  for (int k = 0; k < o.iterations; ++k) {
    double error = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const HqqRound r = round(x(static_cast<std::int64_t>(i)), cols, rows[i], last_code, exponent, beta_inverse);
      error += double{r.error};
      rows[i].zero = r.new_zero;
    }
    if (error >= best_error) continue;
    best_error = error;
    for (std::size_t i = 0; i < rows.size(); ++i) best[i] = rows[i].zero;
  }
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].zero = best[i];
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
