// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quantized_matrix.hpp"

// The order in which the CPU kernels read a matrix: strips of 16 rows of one panel, each one stream of bytes that is
// read from front to end. A row is a 32-bit lane, so that 16 rows add up in one register (or in two, or four) and
// nothing is ever added across lanes.
//
//   strip    coarse scales | block 0 | block 1 | ...             every part padded to lines of 64 bytes
//   block    scales of 32 groups | zeros of 32 groups | units    as many groups as the row has left in the last one
//   group    16 scales: floats as stored, integers of n bits as 2n bytes, dense; zeros alike; coarse scales alike
//   unit     32 columns x 16 rows of codes: `bits` lines, in planes of 1, 2, 4 or 8 bits (3 = 2 + 1, 5 = 4 + 1,
//            6 = 4 + 2), each of as many lines as it has bits
//
// Within a unit, the four columns 4n ... 4n+3 (n = 0 ... 7) are the four bytes of a lane: 8 bits wide, they are what an
// 8-bit dot product takes. A plane of p bits holds them for 8/p values of n in one line:
//
//   p = 4, lane:  byte     0        1        2        3
//                 line 0   4|0      5|1      6|2      7|3       columns, high nibble | low nibble
//                 line 1   12|8     13|9     14|10    15|11
//
// One shift brings any code of 2 or 4 bits to the bottom of its lane, one shift and one mask four codes to the bottom
// of their bytes. Rows and columns that the matrix does not have are zero.

namespace sinq::inline SINQ_ABI::detail::pack {

inline constexpr std::int64_t kStripRows = 16;
inline constexpr std::int64_t kUnitCols = 32;
inline constexpr std::int64_t kBlockGroups = 32;
inline constexpr std::int64_t kLine = 64;

[[nodiscard]] constexpr std::int64_t whole_lines(std::int64_t bytes) noexcept {
  return (bytes + kLine - 1) / kLine * kLine;
}

/// Bits of the first plane; the second one holds the rest.
[[nodiscard]] constexpr int low_plane(int bits) noexcept {
  return bits == 3 ? 2 : bits == 5 || bits == 6 ? 4 : bits;
}

/// Bytes of 16 auxiliaries.
[[nodiscard]] constexpr std::int64_t aux_bytes(Aux aux) noexcept {
  return kStripRows * bits_of(aux) / 8;
}

/// Where everything lies.
struct StripOrder {
  StripOrder() = default;
  StripOrder(const Format& f, const Tiling& t)
      : tiling(t),
        bits(f.bits),
        scale(aux_bytes(f.scale)),
        zero(aux_bytes(f.zero)),
        head(whole_lines(kStripRows * 2 * coarse_per_row(f, t))),
        strips_per_panel((std::min(t.tile_height, t.rows) + kStripRows - 1) / kStripRows),
        strips((t.panels() - 1) * strips_per_panel + (t.panel_rows(t.panels() - 1) + kStripRows - 1) / kStripRows),
        strip(codes(blocks() - 1) + units(block_cols(blocks() - 1)) * unit()) {}

  [[nodiscard]] std::int64_t blocks() const noexcept { return (tiling.groups() + kBlockGroups - 1) / kBlockGroups; }
  [[nodiscard]] std::int64_t block_groups(std::int64_t b) const noexcept {
    return std::min(kBlockGroups, tiling.groups() - b * kBlockGroups);
  }
  [[nodiscard]] std::int64_t block_begin(std::int64_t b) const noexcept { return b * kBlockGroups * tiling.group_size; }
  [[nodiscard]] std::int64_t block_cols(std::int64_t b) const noexcept {
    return std::min(kBlockGroups * tiling.group_size, tiling.cols - block_begin(b));
  }
  [[nodiscard]] static constexpr std::int64_t units(std::int64_t cols) noexcept {
    return (cols + kUnitCols - 1) / kUnitCols;
  }
  [[nodiscard]] std::int64_t unit() const noexcept { return bits * kLine; }

  // Offsets of the parts of block b from the beginning of the strip. All blocks before the last are of one size.
  [[nodiscard]] std::int64_t scales(std::int64_t b) const noexcept {
    const std::int64_t whole = whole_lines(kBlockGroups * (scale + zero)) + units(block_begin(1)) * unit();
    return head + b * whole;
  }
  [[nodiscard]] std::int64_t zeros(std::int64_t b) const noexcept { return scales(b) + block_groups(b) * scale; }
  [[nodiscard]] std::int64_t codes(std::int64_t b) const noexcept {
    return scales(b) + whole_lines(block_groups(b) * (scale + zero));
  }

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
  std::int64_t scale = 0;             // bytes of 16 scales
  std::int64_t zero = 0;              // bytes of 16 zeros
  std::int64_t head = 0;              // bytes of the coarse scales
  std::int64_t strips_per_panel = 0;  // the last panel may have fewer
  std::int64_t strips = 0;
  std::int64_t strip = 0;  // bytes of a strip
};

// --- codes --------------------------------------------------------------------------------------------------------

/// Puts the codes of columns 4n ... 4n+3 of one lane, one per byte, into a unit of zeros.
template <int kBits>
[[gnu::always_inline]] inline void put_four(std::uint8_t* unit, std::int64_t lane, int n, std::uint32_t four) noexcept {
  const auto plane = [&](auto width, int first_line, int from) {
    constexpr int p = width();
    if constexpr (p > 0) {
      std::uint8_t* at = unit + (first_line + n * p / 8) * kLine + lane * 4;
      std::uint32_t word = 0;
      std::memcpy(&word, at, 4);
      word |= (four >> from & 0x0101'0101u * ((1u << p) - 1)) << (n * p % 8);
      std::memcpy(at, &word, 4);
    }
  };
  constexpr int low = low_plane(kBits);
  plane(std::integral_constant<int, low>{}, 0, 0);
  plane(std::integral_constant<int, kBits - low>{}, low, low);
}

/// The inverse of `put_four`.
template <int kBits>
[[gnu::always_inline]] inline std::uint32_t get_four(const std::uint8_t* unit, std::int64_t lane, int n) noexcept {
  const auto plane = [&](auto width, int first_line) {
    constexpr int p = width();
    std::uint32_t word = 0;
    if constexpr (p > 0) {
      std::memcpy(&word, unit + (first_line + n * p / 8) * kLine + lane * 4, 4);
      word = word >> (n * p % 8) & 0x0101'0101u * ((1u << p) - 1);
    }
    return word;
  };
  constexpr int low = low_plane(kBits);
  return plane(std::integral_constant<int, low>{}, 0) | plane(std::integral_constant<int, kBits - low>{}, low)
                                                            << (kBits - low > 0 ? low : 0);
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

/// Entry k of a stream of entries of n bits (4 to 8, 16 or 32), as in rows of auxiliaries.
[[nodiscard]] inline std::uint32_t get_entry(const std::uint8_t* stream, std::int64_t k, int n) noexcept {
  const std::int64_t bit = k * n;
  std::uint64_t word = 0;
  std::memcpy(&word, stream + bit / 8, static_cast<std::size_t>((bit % 8 + n + 7) / 8));
  return static_cast<std::uint32_t>(word >> bit % 8 & ((std::uint64_t{1} << n) - 1));
}

/// The inverse, into a stream of zeros.
inline void put_entry(std::uint8_t* stream, std::int64_t k, int n, std::uint32_t value) noexcept {
  const std::int64_t bit = k * n;
  const auto bytes = static_cast<std::size_t>((bit % 8 + n + 7) / 8);
  std::uint64_t word = 0;
  std::memcpy(&word, stream + bit / 8, bytes);
  word |= std::uint64_t{value} << bit % 8;
  std::memcpy(stream + bit / 8, &word, bytes);
}

}  // namespace sinq::inline SINQ_ABI::detail::pack
