// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>

#include "../tile.hpp"
#include "bitstream.hpp"

namespace sinq::inline SINQ_ABI {

/// How an auxiliary (scale, zero, col_scale) is stored. Values 4 to 8 are the bits of an integer encoding.
enum class Aux : std::uint8_t { none = 0, u4 = 4, u5 = 5, u6 = 6, u7 = 7, u8 = 8, f16 = 16, bf16 = 17, f32 = 32 };

[[nodiscard]] constexpr bool is_integer(Aux aux) noexcept {
  return aux >= Aux::u4 && aux <= Aux::u8;
}
[[nodiscard]] constexpr bool is_float(Aux aux) noexcept {
  return aux == Aux::f16 || aux == Aux::bf16 || aux == Aux::f32;
}
[[nodiscard]] constexpr int bits_of(Aux aux) noexcept {
  return aux == Aux::bf16 ? 16 : static_cast<int>(aux);
}
/// As files spell it; empty for a value that the enumeration does not have.
[[nodiscard]] constexpr const char* name_of(Aux aux) noexcept {
  switch (aux) {
    case Aux::none:
      return "none";
    case Aux::u4:
      return "u4";
    case Aux::u5:
      return "u5";
    case Aux::u6:
      return "u6";
    case Aux::u7:
      return "u7";
    case Aux::u8:
      return "u8";
    case Aux::f16:
      return "f16";
    case Aux::bf16:
      return "bf16";
    case Aux::f32:
      return "f32";
    default:
      return "";
  }
}

/// Everything about a quantized matrix that is not a number of its own.
///
/// Float auxiliaries are the values themselves. An integer `scale` of n bits is a share of a coarse scale that
/// `coarse_groups` consecutive groups of a row have in common; an integer `zero` of n bits is a point on an even grid
/// over the span of the levels ([0, 2^bits) for uniform, [-1, 1) for NF, [-128, 128) for a table), so it needs no
/// second level:
///
///   scale[i,g] = coarse_scale[i, g / coarse_groups] * m / 2^n         0 <= m < 2^n        (signed_scale == false)
///   scale[i,g] = coarse_scale[i, g / coarse_groups] * m / 2^(n-1)     -2^(n-1) <= m < 2^(n-1), two's complement
///   zero[i,g]  = span.low + m * span.width / 2^n                      0 <= m < 2^n
struct Format {
  int bits = 4;
  Levels levels = Levels::uniform;
  std::int64_t group_size = 64;
  Tile tile = Tile::stripe;
  Aux scale = Aux::f16;
  Aux zero = Aux::f16;             // none: there is no zero (it is 0)
  Aux col_scale = Aux::f16;        // f16, bf16, f32, or none: the second axis is absent (all 1)
  bool signed_scale = false;       // integer scales only; float scales carry their sign
  std::int64_t coarse_groups = 0;  // integer scales only; 0: one coarse scale for the whole row

  friend bool operator==(const Format&, const Format&) = default;
};

namespace detail::pack {

/// For a message, in which a value without a name is its number.
inline std::string text_of(Aux aux) {
  const char* name = name_of(aux);
  return *name == '\0' ? core::text(static_cast<int>(aux)) : name;
}

/// Why `f` is not a legal format, "bits = 7: allowed are ...", or nothing. The one place that knows: `validate` makes
/// an InvalidArgument of it, and the reader of files, which names the file and the byte, a FormatError.
[[nodiscard]] inline std::optional<std::string> fault_of(const Format& f) {
  std::optional<std::string> fault;
  const auto check = [&](bool ok, const char* name, const auto& value, const char* limit) {
    if (ok || fault) return;
    if constexpr (std::is_same_v<decltype(value), const Aux&>)
      fault = core::text(name, " = ", text_of(value), ": ", limit);
    else
      fault = core::text(name, " = ", value, ": ", limit);
  };
  check(core::is_bit_width(f.bits), "bits", f.bits, core::kBitWidthsText);
  check(f.levels <= Levels::table, "levels", static_cast<int>(f.levels),
        "allowed are uniform, symmetric, nf4, nf3 and table");
  check(f.levels != Levels::nf4 || f.bits == 4, "bits", f.bits, "NF4 has 4 bits");
  check(f.levels != Levels::nf3 || f.bits == 3, "bits", f.bits, "NF3 has 3 bits");
  check(f.levels != Levels::table || f.bits <= 4, "bits", f.bits, "a level table has 2, 3 or 4 bits");
  check(tile::is_group_size(f.group_size), "group_size", f.group_size, tile::kGroupSizes);
  check(tile::is_tile(f.tile), "tile", static_cast<int>(f.tile), tile::kTiles);
  check(is_integer(f.scale) || is_float(f.scale), "scale", f.scale, "allowed are u4 to u8, f16, bf16 and f32");
  check(f.zero == Aux::none || is_integer(f.zero) || is_float(f.zero), "zero", f.zero,
        "allowed are none, u4 to u8, f16, bf16 and f32");
  check(f.levels != Levels::uniform || f.zero != Aux::none, "zero", f.zero, "uniform levels have a zero");
  check(f.levels != Levels::symmetric || f.zero == Aux::none, "zero", f.zero, "symmetric levels have no zero");
  check(f.col_scale == Aux::none || is_float(f.col_scale), "col_scale", f.col_scale,
        "allowed are none, f16, bf16 and f32");
  check(!f.signed_scale || is_integer(f.scale), "signed_scale", "true", "only for integer scales");
  check(f.coarse_groups >= 0 && f.coarse_groups <= 0x7fff'ffff && (f.coarse_groups == 0 || is_integer(f.scale)),
        "coarse_groups", f.coarse_groups, "0 to 2^31 - 1, and 0 unless the scale is an integer");
  return fault;
}

/// Levels of a table, a byte each; 0 where there is none.
[[nodiscard]] constexpr std::int64_t table_bytes(const Format& f) noexcept {
  return f.levels == Levels::table ? std::int64_t{1} << f.bits : 0;
}

inline void validate(const Format& f) {
  if (const auto fault = fault_of(f)) core::raise<InvalidArgument>("sinq: " + *fault);
}

[[nodiscard]] inline std::int64_t coarse_per_row(const Format& f, const Tiling& t) noexcept {
  if (!is_integer(f.scale)) return 0;
  return f.coarse_groups == 0 ? 1 : (t.groups() + f.coarse_groups - 1) / f.coarse_groups;
}

/// Bytes of each array of a matrix. All of them are row-major; rows of codes and of integer auxiliaries are bit
/// streams that end at a byte.
struct Extents {
  std::int64_t code_row;    // bytes of one row of codes
  std::int64_t scale_row;   // bytes of one row of scales
  std::int64_t zero_row;    // bytes of one row of zeros
  std::int64_t coarse_row;  // bytes of one row of coarse scales (f16)
  std::int64_t col_row;     // bytes of one panel of column scales
};

[[nodiscard]] inline Extents extents(const Format& f, const Tiling& t) noexcept {
  return {stream_bytes(t.cols, f.bits), stream_bytes(t.groups(), bits_of(f.scale)),
          stream_bytes(t.groups(), bits_of(f.zero)), 2 * coarse_per_row(f, t),
          stream_bytes(t.cols, bits_of(f.col_scale))};
}

}  // namespace detail::pack
}  // namespace sinq::inline SINQ_ABI
