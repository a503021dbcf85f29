// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../core.hpp"

// Functions that decide codes and therefore must give the same bits everywhere: math libraries do not (glibc alone has
// several variants of powf, chosen by the CPU).

namespace sinq::inline SINQ_ABI::detail::quantize {

/// log2(x) for normal x > 0: x = 2^k m with m in [sqrt(1/2), sqrt(2)), log2 m = 2 / ln 2 * atanh(t), t = (m-1)/(m+1),
/// |t| < 0.172; the series is cut after t^9 (next term: 2 / ln 2 * t^11 / 11 < 1.1e-9).
template <int kWidth>
[[gnu::always_inline]] inline core::Lanes<kWidth> log2(const core::Lanes<kWidth>& x) noexcept {
  using Float = core::Lanes<kWidth>;
  Float k;
  Float m;
  Float::split(x, k, m);
  const Float t = (m - 1) / (m + 1);
  const Float t2 = t * t;
  Float series = 0.32059889f;  // 2 / ln 2 / 9
  series = mul_add(series, t2, 0.41219857f);
  series = mul_add(series, t2, 0.57707801f);
  series = mul_add(series, t2, 0.96179669f);
  series = mul_add(series, t2, 2.88539008f);
  return mul_add(series, t, k);
}

/// 2^y for |y| <= 120: 2^n 2^f with |f| <= 1/2, Taylor to f^7 (next term: (ln 2 / 2)^8 / 8! < 6e-9).
template <int kWidth>
[[gnu::always_inline]] inline core::Lanes<kWidth> exp2(const core::Lanes<kWidth>& y) noexcept {
  using Float = core::Lanes<kWidth>;
  const Float n = round(y);
  const Float f = y - n;
  Float series = 1.5252734e-5f;
  series = mul_add(series, f, 1.5403530e-4f);
  series = mul_add(series, f, 1.3333558e-3f);
  series = mul_add(series, f, 9.6181291e-3f);
  series = mul_add(series, f, 5.5504109e-2f);
  series = mul_add(series, f, 0.24022651f);
  series = mul_add(series, f, 0.69314718f);
  series = mul_add(series, f, 1.0f);
  return scale_by_power(series, n);
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
