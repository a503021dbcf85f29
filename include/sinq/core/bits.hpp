// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "../version.hpp"

namespace sinq::inline SINQ_ABI {

/// Bits per code that exist.
inline constexpr std::array<int, 6> kBitWidths = {2, 3, 4, 5, 6, 8};

namespace detail::core {

inline constexpr const char* kBitWidthsText = "allowed are 2, 3, 4, 5, 6, 8";

[[nodiscard]] constexpr bool is_bit_width(int bits) noexcept {
  for (int width : kBitWidths)
    if (bits == width) return true;
  return false;
}

/// Calls `visit(std::integral_constant<int, bits>{})` for the width of a code.
template <class Visitor>
decltype(auto) with_code_bits(int bits, Visitor&& visit) {
  switch (bits) {
    case 2:
      return visit(std::integral_constant<int, 2>{});
    case 3:
      return visit(std::integral_constant<int, 3>{});
    case 4:
      return visit(std::integral_constant<int, 4>{});
    case 5:
      return visit(std::integral_constant<int, 5>{});
    case 6:
      return visit(std::integral_constant<int, 6>{});
    default:
      return visit(std::integral_constant<int, 8>{});
  }
}

/// The same for 2 to 8: an auxiliary may have 7, too.
template <class Visitor>
decltype(auto) with_bits(int bits, Visitor&& visit) {
  if (bits == 7) return visit(std::integral_constant<int, 7>{});
  return with_code_bits(bits, visit);
}

}  // namespace detail::core
}  // namespace sinq::inline SINQ_ABI
