// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quantized_matrix.hpp"

// The order in which the CPU kernels read a matrix: strips of 16 rows of one panel, each one stream of bytes that is
// read from front to end. A row is a 32-bit lane, so that 16 rows add up in one register (or in two, or four) and
// nothing is ever added across lanes.
//
//   strip    coarse scales | block 0 | block 1 | ...      every part whole lines of 64 bytes
//   block    scales | zeros | units                       4 to 10 groups: what one or two lines of auxiliaries hold;
//                                                         the last one has only the units that there are
//   scales   integers of n bits: a lane holds those of 32 / n groups, from its lowest bit on (u5: six, two bits
//   unused);
//            floats: 16 of a group, then 16 of the next one; zeros alike; coarse scales alike
//   unit     32 columns x 16 rows of codes: `bits` lines, in planes of 1, 2, 4 or 8 bits (3 = 2 + 1, 5 = 4 + 1,
//            6 = 4 + 2), each of as many lines as it has bits
//
// Blocks are short so that a kernel never reads far ahead of its codes: one stream is what hardware follows.
//
// Within a unit, the four columns 4n ... 4n+3 (n = 0 ... 7) are the four bytes of a lane: 8 bits wide, they are what an
// 8-bit dot product takes. A plane of p bits holds them for 8/p values of n in one line:
//
//   p = 4, lane:  byte     0        1        2        3
//                 line 0   4|0      5|1      6|2      7|3       columns, high nibble | low nibble
//                 line 1   12|8     13|9     14|10    15|11
//
// One shift and one mask bring four codes to the bottom of their bytes. Rows and columns that the matrix does not have
// are zero.

namespace sinq::inline SINQ_ABI::detail::pack {

inline constexpr std::int64_t kStripRows = 16;
inline constexpr std::int64_t kUnitCols = 32;
inline constexpr std::int64_t kLine = 64;
inline constexpr std::int64_t kMostBlockGroups = 10;

[[nodiscard]] constexpr std::int64_t whole_lines(std::int64_t bytes) noexcept {
  return (bytes + kLine - 1) / kLine * kLine;
}

/// Bits of the first plane; the second one holds the rest.
[[nodiscard]] constexpr int low_plane(int bits) noexcept {
  return bits == 3 ? 2 : bits == 5 || bits == 6 ? 4 : bits;
}

/// Groups whose auxiliaries of 16 rows share a line.
[[nodiscard]] constexpr std::int64_t groups_per_line(Aux aux) noexcept {
  return is_integer(aux) ? 32 / bits_of(aux) : aux == Aux::f32 ? 1 : 2;
}

/// Lines of the auxiliaries of `groups` groups of 16 rows.
[[nodiscard]] constexpr std::int64_t aux_lines(Aux aux, std::int64_t groups) noexcept {
  return aux == Aux::none ? 0 : (groups + groups_per_line(aux) - 1) / groups_per_line(aux);
}

/// The bit in these lines at which the auxiliary of group g and a lane begins.
[[nodiscard]] constexpr std::int64_t aux_bit(Aux aux, std::int64_t g, std::int64_t lane) noexcept {
  const std::int64_t n = bits_of(aux);
  if (is_float(aux)) return (g * kStripRows + lane) * n;
  return (g / groups_per_line(aux) * kStripRows + lane) * 32 + g % groups_per_line(aux) * n;
}

/// Groups of a block: as many as fill a line of the wider integer, an even number, so that units are whole.
[[nodiscard]] constexpr std::int64_t groups_per_block(const Format& f) noexcept {
  const std::int64_t scales = is_integer(f.scale) ? groups_per_line(f.scale) : 8;
  const std::int64_t zeros = is_integer(f.zero) ? groups_per_line(f.zero) : 8;
  const std::int64_t groups = is_integer(f.scale) || is_integer(f.zero) ? std::min(scales, zeros) : 4;
  return groups % 2 == 0 ? groups : 2 * groups;
}

/// Where everything lies.
struct StripOrder {
  StripOrder() = default;
  StripOrder(const Format& f, const Tiling& t)
      : tiling(t),
        bits(f.bits),
        scale(f.scale),
        zero(f.zero),
        block(std::min(groups_per_block(f), t.groups())),
        blocks((t.groups() + block - 1) / block),
        head(whole_lines(kStripRows * 2 * coarse_per_row(f, t))),
        scale_bytes(aux_lines(scale, block) * kLine),
        zero_bytes(aux_lines(zero, block) * kLine),
        block_bytes(scale_bytes + zero_bytes + units(block * t.group_size) * unit()),
        strips_per_panel((std::min(t.tile_height, t.rows) + kStripRows - 1) / kStripRows),
        strips((t.panels() - 1) * strips_per_panel + (t.panel_rows(t.panels() - 1) + kStripRows - 1) / kStripRows),
        strip(codes(blocks - 1) + units(block_cols(blocks - 1)) * unit()) {}

  [[nodiscard]] std::int64_t block_groups(std::int64_t b) const noexcept {
    return std::min(block, tiling.groups() - b * block);
  }
  [[nodiscard]] std::int64_t block_begin(std::int64_t b) const noexcept { return b * block * tiling.group_size; }
  [[nodiscard]] std::int64_t block_cols(std::int64_t b) const noexcept {
    return std::min(block * tiling.group_size, tiling.cols - block_begin(b));
  }
  [[nodiscard]] static constexpr std::int64_t units(std::int64_t cols) noexcept {
    return (cols + kUnitCols - 1) / kUnitCols;
  }
  [[nodiscard]] std::int64_t unit() const noexcept { return bits * kLine; }

  // Offsets of the parts of block b from the beginning of the strip.
  [[nodiscard]] std::int64_t scales(std::int64_t b) const noexcept { return head + b * block_bytes; }
  [[nodiscard]] std::int64_t zeros(std::int64_t b) const noexcept { return scales(b) + scale_bytes; }
  [[nodiscard]] std::int64_t codes(std::int64_t b) const noexcept { return zeros(b) + zero_bytes; }

  [[nodiscard]] std::int64_t panel_of(std::int64_t s) const noexcept { return s / strips_per_panel; }
  [[nodiscard]] std::int64_t first_row(std::int64_t s) const noexcept {
    return tiling.panel_begin(panel_of(s)) + s % strips_per_panel * kStripRows;
  }
  [[nodiscard]] std::int64_t rows(std::int64_t s) const noexcept {
    const std::int64_t p = panel_of(s);
    return std::min(kStripRows, tiling.panel_begin(p) + tiling.panel_rows(p) - first_row(s));
  }
  [[nodiscard]] std::int64_t strip_of(std::int64_t row) const noexcept {
    return tiling.panel_of(row) * strips_per_panel + row % tiling.tile_height / kStripRows;
  }
  [[nodiscard]] std::int64_t lane_of(std::int64_t row) const noexcept { return row % tiling.tile_height % kStripRows; }

  Tiling tiling{};
  int bits = 0;
  Aux scale = Aux::none;
  Aux zero = Aux::none;
  std::int64_t block = 0;  // groups of a block; the last one may have fewer
  std::int64_t blocks = 0;
  std::int64_t head = 0;         // bytes of the coarse scales
  std::int64_t scale_bytes = 0;  // of a block
  std::int64_t zero_bytes = 0;
  std::int64_t block_bytes = 0;
  std::int64_t strips_per_panel = 0;  // the last panel may have fewer
  std::int64_t strips = 0;
  std::int64_t strip = 0;  // bytes of a strip
};

// --- codes --------------------------------------------------------------------------------------------------------

/// Puts the codes of columns 4n ... 4n+3 of one lane, one per byte, into a unit of zeros.
template <int kBits>
[[gnu::always_inline]] inline void put_four(std::uint8_t* unit, std::int64_t lane, int n, std::uint32_t four) noexcept {
  const auto plane = [&](auto width, int first_line, int from) {
    constexpr int kWidth = width();
    if constexpr (kWidth > 0) {
      std::uint8_t* at = unit + (first_line + n * kWidth / 8) * kLine + lane * 4;
      std::uint32_t word = 0;
      std::memcpy(&word, at, 4);
      word |= (four >> from & 0x0101'0101u * ((1u << kWidth) - 1)) << (n * kWidth % 8);
      std::memcpy(at, &word, 4);
    }
  };
  constexpr int kLow = low_plane(kBits);
  plane(std::integral_constant<int, kLow>{}, 0, 0);
  plane(std::integral_constant<int, kBits - kLow>{}, kLow, kLow);
}

/// The inverse of `put_four`.
template <int kBits>
[[gnu::always_inline]] inline std::uint32_t get_four(const std::uint8_t* unit, std::int64_t lane, int n) noexcept {
  const auto plane = [&](auto width, int first_line) {
    constexpr int kWidth = width();
    std::uint32_t word = 0;
    if constexpr (kWidth > 0) {
      std::memcpy(&word, unit + (first_line + n * kWidth / 8) * kLine + lane * 4, 4);
      word = word >> (n * kWidth % 8) & 0x0101'0101u * ((1u << kWidth) - 1);
    }
    return word;
  };
  constexpr int kLow = low_plane(kBits);
  return plane(std::integral_constant<int, kLow>{}, 0) | plane(std::integral_constant<int, kBits - kLow>{}, kLow)
                                                             << (kBits - kLow > 0 ? kLow : 0);
}

/// Codes [0, 32 units) of a row, one byte each -> its lane in `units` units of zeros.
template <int kBits>
void put_codes(const std::uint8_t* codes, std::int64_t lane, std::int64_t units, std::uint8_t* to) noexcept {
  for (std::int64_t u = 0; u < units; ++u, to += kBits * kLine)
    for (int n = 0; n < 8; ++n) {
      std::uint32_t four = 0;
      std::memcpy(&four, codes + u * kUnitCols + 4 * n, 4);
      put_four<kBits>(to, lane, n, four);
    }
}

/// Codes [first, first + count) of one lane of a block, one byte each; `first` is a multiple of 4.
template <int kBits>
void get_codes(const std::uint8_t* units, std::int64_t lane, std::int64_t first, std::int64_t count,
               std::uint8_t* codes) noexcept {
  for (std::int64_t k = 0; k < count; k += 4) {
    const std::int64_t column = first + k;
    const std::uint32_t four =
        get_four<kBits>(units + column / kUnitCols * kBits * kLine, lane, static_cast<int>(column % kUnitCols / 4));
    std::memcpy(codes + k, &four, static_cast<std::size_t>(std::min<std::int64_t>(4, count - k)));
  }
}

// --- auxiliaries --------------------------------------------------------------------------------------------------

/// The n bits (4 to 8, 16 or 32) of a stream that begin at `bit`.
[[nodiscard]] inline std::uint32_t get_entry(const std::uint8_t* stream, std::int64_t bit, int n) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, stream + bit / 8, static_cast<std::size_t>((bit % 8 + n + 7) / 8));
  return static_cast<std::uint32_t>(word >> bit % 8 & ((std::uint64_t{1} << n) - 1));
}

/// The inverse, into a stream of zeros.
inline void put_entry(std::uint8_t* stream, std::int64_t bit, int n, std::uint32_t value) noexcept {
  const auto bytes = static_cast<std::size_t>((bit % 8 + n + 7) / 8);
  std::uint64_t word = 0;
  std::memcpy(&word, stream + bit / 8, bytes);
  word |= std::uint64_t{value} << bit % 8;
  std::memcpy(stream + bit / 8, &word, bytes);
}

}  // namespace sinq::inline SINQ_ABI::detail::pack
