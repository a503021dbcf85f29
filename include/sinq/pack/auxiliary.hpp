// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "format.hpp"

// Auxiliaries <-> bytes: the only place that knows how a scale, a zero or a column scale is stored.

namespace sinq::inline SINQ_ABI::detail::pack {

/// Calls `visit(T{})` with the C++ type of a float auxiliary.
template <class Visitor>
decltype(auto) with_float_aux(Aux aux, Visitor&& visit) {
  if (aux == Aux::f16) return visit(half{});
  if (aux == Aux::bf16) return visit(bfloat16{});
  return visit(float{});
}

/// `value` as a reader will see it after a round trip through `aux` (round to nearest, ties to even).
[[nodiscard]] inline float round_to(Aux aux, float value) noexcept {
  return with_float_aux(aux, [&](auto zero) { return static_cast<float>(static_cast<decltype(zero)>(value)); });
}

/// The same for many, in place. Never inline: every kernel of the fit would hold several.
[[gnu::noinline]] inline void round_all_to(Aux aux, float* values, int count) noexcept {
  for (int k = 0; k < count; ++k) values[k] = round_to(aux, values[k]);
}

inline void write_float(Aux aux, std::uint8_t* array, std::int64_t index, float value) noexcept {
  with_float_aux(aux, [&](auto zero) {
    const auto stored = static_cast<decltype(zero)>(value);
    std::memcpy(array + index * std::int64_t{sizeof stored}, &stored, sizeof stored);
  });
}

/// Reads `count` float auxiliaries beginning with number `first`.
inline void read_floats(Aux aux, const std::uint8_t* array, std::int64_t first, std::int64_t count,
                        float* values) noexcept {
  with_float_aux(aux, [&](auto zero) {
    for (std::int64_t k = 0; k < count; ++k)
      values[k] = static_cast<float>(core::load_unaligned<decltype(zero)>(array, first + k));
  });
}

/// scale = coarse * scale_share(...): the share that an integer scale of n bits stands for. Exact in float.
[[nodiscard]] inline float scale_share(Aux aux, bool is_signed, int m) noexcept {
  const int n = bits_of(aux);
  if (is_signed && m >= 1 << (n - 1)) m -= 1 << n;
  return static_cast<float>(m) / static_cast<float>(1 << (is_signed ? n - 1 : n));
}

/// The zero that an integer zero of n bits stands for. Exact in float.
[[nodiscard]] inline float zero_at(Aux aux, core::LevelSpan span, int m) noexcept {
  return span.low + static_cast<float>(m) * (span.width / static_cast<float>(1 << bits_of(aux)));
}

}  // namespace sinq::inline SINQ_ABI::detail::pack
