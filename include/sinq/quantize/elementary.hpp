// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "../version.hpp"

// Functions that decide codes and therefore must give the same bits everywhere: math libraries do not (glibc alone has
// several variants of powf, chosen by the CPU). Written with explicit fma and products that feed nothing but fma.

namespace sinq::inline SINQ_ABI::detail::quantize {

/// log2(x) for normal x > 0: x = 2^k m with m in [sqrt(1/2), sqrt(2)), log2 m = 2 / ln 2 * atanh(t), t = (m-1)/(m+1),
/// |t| < 0.172; the series is cut after t^9 (next term: 2 / ln 2 * t^11 / 11 < 1.1e-9).
[[gnu::always_inline]] inline float stable_log2(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t shifted = bits - 0x3f35'04f3u;  // bits of sqrt(1/2)
  const auto k = static_cast<std::int32_t>(shifted) >> 23;
  const auto m = std::bit_cast<float>(bits - (static_cast<std::uint32_t>(k) << 23));
  const float t = (m - 1) / (m + 1);
  const float t2 = t * t;
  float series = 0.32059889f;  // 2 / ln 2 / 9
  series = std::fma(series, t2, 0.41219857f);
  series = std::fma(series, t2, 0.57707801f);
  series = std::fma(series, t2, 0.96179669f);
  series = std::fma(series, t2, 2.88539008f);
  return std::fma(series, t, static_cast<float>(k));
}

/// 2^y for |y| <= 120: 2^n 2^f with |f| <= 1/2, Taylor to f^7 (next term: (ln 2 / 2)^8 / 8! < 6e-9).
[[gnu::always_inline]] inline float stable_exp2(float y) noexcept {
  const float n = std::nearbyint(y);
  const float f = y - n;
  float series = 1.5252734e-5f;
  series = std::fma(series, f, 1.5403530e-4f);
  series = std::fma(series, f, 1.3333558e-3f);
  series = std::fma(series, f, 9.6181291e-3f);
  series = std::fma(series, f, 5.5504109e-2f);
  series = std::fma(series, f, 0.24022651f);
  series = std::fma(series, f, 0.69314718f);
  series = std::fma(series, f, 1.0f);
  const auto scale = std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<std::int32_t>(n) + 127) << 23);
  return series * scale;
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
