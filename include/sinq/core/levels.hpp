// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "../version.hpp"

namespace sinq::inline SINQ_ABI {

/// What a code means.
///
///   uniform    level = code                       0 ... 2^bits - 1; always with a zero
///   symmetric  level = code - 2^(bits-1)          -2^(bits-1) ... 2^(bits-1) - 1; never with a zero
///   nf4, nf3   level = codebook[code]             quantiles of a normal distribution, -1 ... 1 (16 and 8 levels)
///   table      level = table[code]                -128 ... 127, at most 16 levels, stored beside the codes
///
/// The symmetric levels have one more below zero than above; a negative scale turns them round, so that no level is
/// wasted whichever side is longer.
enum class Levels : std::uint8_t { uniform, symmetric, nf4, nf3, table };

/// As files spell it; empty for a value that the enumeration does not have.
[[nodiscard]] constexpr const char* name_of(Levels levels) noexcept {
  switch (levels) {
    case Levels::uniform:
      return "uniform";
    case Levels::symmetric:
      return "symmetric";
    case Levels::nf4:
      return "nf4";
    case Levels::nf3:
      return "nf3";
    case Levels::table:
      return "table";
    default:
      return "";
  }
}

/// The levels of `Levels::table`, never falling; entries from 2^bits on are unused and zero.
using LevelTable = std::array<std::int8_t, 16>;

/// NF4 as in bitsandbytes (QLoRA, arXiv 2305.14314, appendix E).
inline constexpr std::array<float, 16> kNf4 = {-1.0f,
                                               -0.6961928009986877f,
                                               -0.5250730514526367f,
                                               -0.39491748809814453f,
                                               -0.28444138169288635f,
                                               -0.18477343022823334f,
                                               -0.09105003625154495f,
                                               0.0f,
                                               0.07958029955625534f,
                                               0.16093020141124725f,
                                               0.24611230194568634f,
                                               0.33791524171829224f,
                                               0.44070982933044434f,
                                               0.5626170039176941f,
                                               0.7229568362236023f,
                                               1.0f};

/// NF3 as in the Python reference of SINQ.
inline constexpr std::array<float, 8> kNf3 = {-1.0f,
                                              -0.5350227355957031f,
                                              -0.2469314038753510f,
                                              0.0f,
                                              0.1833375245332718f,
                                              0.3819939494132996f,
                                              0.6229856610298157f,
                                              1.0f};

namespace detail::core {

[[nodiscard]] constexpr bool is_nf(Levels levels) noexcept {
  return levels == Levels::nf4 || levels == Levels::nf3;
}

/// The one formula from code to level, on the host and (constexpr) on a device.
constexpr float level(Levels levels, int bits, const LevelTable& table, int code) {
  switch (levels) {
    case Levels::uniform:
      return static_cast<float>(code);
    case Levels::symmetric:
      return static_cast<float>(code - (1 << (bits - 1)));
    case Levels::nf4:
      return kNf4[static_cast<std::size_t>(code)];
    case Levels::nf3:
      return kNf3[static_cast<std::size_t>(code)];
    default:
      return static_cast<float>(table[static_cast<std::size_t>(code)]);
  }
}

/// The half-open interval that the levels span; a zero of few bits lies on an even grid over it.
struct LevelSpan {
  float low;
  float width;
};

constexpr LevelSpan level_span(Levels levels, int bits) {
  const auto count = static_cast<float>(1 << bits);
  switch (levels) {
    case Levels::uniform:
      return {0.0f, count};
    case Levels::symmetric:
      return {-count / 2, count};
    case Levels::table:
      return {-128.0f, 256.0f};
    default:
      return {-1.0f, 2.0f};
  }
}

}  // namespace detail::core
}  // namespace sinq::inline SINQ_ABI
