// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quantized_matrix.hpp"

// The order in which the CPU kernels read a matrix: strips of 16 rows of one panel, each one stream of bytes that is
// read from front to end. A row is a 32-bit lane, so that 16 rows add up in one register (or in two, or four) and
// nothing is ever added across lanes.
//
//   strip    coarse scales | block 0 | block 1 | ...      every part whole lines of 64 bytes
//   block    scales | zeros | units                       4 to 20 groups: what one to four lines of auxiliaries hold;
//                                                         the last one has only the units that there are
//   scales   integers of n bits: a lane holds those of 32 / n groups, from its lowest bit on (u5: six, two bits
//            unused);
//            floats: 16 of a group, then 16 of the next one; zeros alike; coarse scales alike
//   unit     32 columns x 16 rows of codes: `bits` lines, of which a row has one 32-bit word each
//
// Blocks are short so that a kernel never reads far ahead of its codes: one stream is what hardware follows. They are a
// multiple of four groups long, of 64 columns: see matmul/activations.hpp.
//
// What a kernel takes at a time is four codes of a row, one in each byte of its lane: the first operand of an 8-bit dot
// product. Half a unit, always of one group, is four such fours. Where possible, words are what the canonical bit
// stream has there, so that packing moves words and no bits; which columns share a four follows from that (column_of):
//
//   2 bits   byte:  3|2|1|0   7|6|5|4   11|10|9|8   15|14|13|12     columns; one word is half a unit
//   4 bits          1|0       3|2       5|4         7|6             two words
//   8 bits          0         1         2           3               four words
//   6 bits   three words A, B, C: columns 0 to 3, 4 to 7 and 8 to 11 in the low six bits of their bytes; columns 12 to
//            15 are D, whose two highest bits are the free bits of A, the next those of B, the lowest those of C
//   3 bits   the same of a whole unit, each six bits being two codes: 1|0, 3|2, 5|4, 7|6 in A, and so on. So six of
//            eight codes are read where they are, and for the other two three words are merged once
//   5 bits   four words as 4 bits have them, but 4|0, 5|1, 6|2, 7|3; and one of the highest bits, columns 4n to 4n + 3
//            in bit n
//
// Rows and columns that the matrix does not have are zero.

namespace sinq::inline SINQ_ABI::detail::pack {

inline constexpr std::int64_t kStripRows = 16;
inline constexpr std::int64_t kUnitCols = 32;
inline constexpr std::int64_t kLine = 64;
inline constexpr std::int64_t kMostBlockGroups = 20;

[[nodiscard]] constexpr std::int64_t whole_lines(std::int64_t bytes) noexcept {
  return (bytes + kLine - 1) / kLine * kLine;
}

/// The column, of the sixteen of half a unit, that is in byte i of its n-th four.
[[nodiscard]] constexpr int column_of(int bits, int n, int i) noexcept {
  if (bits == 2) return 4 * i + n;
  if (bits == 3 || bits == 4) return n / 2 * 8 + 2 * i + n % 2;
  return 4 * n + i;
}

/// Groups whose auxiliaries of 16 rows share a line.
[[nodiscard]] constexpr std::int64_t groups_per_line(Aux aux) noexcept {
  return is_integer(aux) ? 32 / bits_of(aux) : aux == Aux::f32 ? 1 : 2;
}

/// Signed scales of n bits are stored 2^(n-1) higher, which turns their sign bit over: one addition reads them.
[[nodiscard]] constexpr std::uint32_t scale_flip(const Format& f) noexcept {
  return f.signed_scale ? 1u << (bits_of(f.scale) - 1) : 0;
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

/// Groups of a block: as many as fill lines of the wider integer, a multiple of four.
[[nodiscard]] constexpr std::int64_t groups_per_block(const Format& f) noexcept {
  const std::int64_t scales = is_integer(f.scale) ? groups_per_line(f.scale) : 8;
  const std::int64_t zeros = is_integer(f.zero) ? groups_per_line(f.zero) : 8;
  const std::int64_t groups = is_integer(f.scale) || is_integer(f.zero) ? std::min(scales, zeros) : 4;
  return groups % 4 == 0 ? groups : groups % 2 == 0 ? 2 * groups : 4 * groups;
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

/// Every byte's `count` bits from bit `from` on, moved to bit `to`.
[[nodiscard]] constexpr std::uint32_t move_bits(std::uint32_t word, int from, int count, int to) noexcept {
  const std::uint32_t mask = 0x0101'0101u * ((1u << count) - 1) << to;
  return (to >= from ? word << (to - from) : word >> (from - to)) & mask;
}

/// Sixteen numbers of 6 bits, in 12 bytes, -> three words, one line apart.
[[gnu::always_inline]] inline void put_sixes(const std::uint8_t* from, std::uint8_t* lane) noexcept {
  const auto first = get_word<std::uint64_t>(from);
  const std::uint64_t low = spread<6>(first);
  const std::uint64_t high = spread<6>(first >> 48 | std::uint64_t{get_word<std::uint32_t>(from + 8)} << 16);
  const auto d = static_cast<std::uint32_t>(high >> 32);
  put_word<4>(lane, static_cast<std::uint32_t>(low) | move_bits(d, 4, 2, 6));
  put_word<4>(lane + kLine, static_cast<std::uint32_t>(low >> 32) | move_bits(d, 2, 2, 6));
  put_word<4>(lane + 2 * kLine, static_cast<std::uint32_t>(high) | move_bits(d, 0, 2, 6));
}

/// The inverse.
[[gnu::always_inline]] inline void get_sixes(const std::uint8_t* lane, std::uint8_t* to) noexcept {
  const auto a = get_word<std::uint32_t>(lane);
  const auto b = get_word<std::uint32_t>(lane + kLine);
  const auto c = get_word<std::uint32_t>(lane + 2 * kLine);
  const std::uint32_t d = move_bits(a, 6, 2, 4) | move_bits(b, 6, 2, 2) | move_bits(c, 6, 2, 0);
  put_word<6>(to, gather<6>(move_bits(a, 0, 6, 0) | std::uint64_t{move_bits(b, 0, 6, 0)} << 32));
  put_word<6>(to + 6, gather<6>(move_bits(c, 0, 6, 0) | std::uint64_t{d} << 32));
}

/// 32 codes of a row as the canonical bit stream has them -> its words of a unit.
template <int kBits>
[[gnu::always_inline]] inline void put_unit(const std::uint8_t* codes, std::uint8_t* lane) noexcept {
  if constexpr (kBits == 3 || kBits == 6) {
    put_sixes(codes, lane);
    if constexpr (kBits == 6) put_sixes(codes + 12, lane + 3 * kLine);
  } else if constexpr (kBits == 5) {
    std::uint32_t highest = 0;
    for (int k = 0; k < 4; ++k) {
      const std::uint64_t eight =
          spread<5>(k < 3 ? get_word<std::uint64_t>(codes + 5 * k) : get_word<std::uint64_t>(codes + 12) >> 24);
      const auto first = static_cast<std::uint32_t>(eight);
      const auto second = static_cast<std::uint32_t>(eight >> 32);
      put_word<4>(lane + k * kLine, move_bits(first, 0, 4, 0) | move_bits(second, 0, 4, 4));
      highest |= (move_bits(first, 4, 1, 0) | move_bits(second, 4, 1, 1)) << 2 * k;
    }
    put_word<4>(lane + 4 * kLine, highest);
  } else {
    for (int k = 0; k < kBits; ++k) put_word<4>(lane + k * kLine, get_word<std::uint32_t>(codes + 4 * k));
  }
}

/// The inverse.
template <int kBits>
[[gnu::always_inline]] inline void get_unit(const std::uint8_t* lane, std::uint8_t* codes) noexcept {
  if constexpr (kBits == 3 || kBits == 6) {
    get_sixes(lane, codes);
    if constexpr (kBits == 6) get_sixes(lane + 3 * kLine, codes + 12);
  } else if constexpr (kBits == 5) {
    const auto highest = get_word<std::uint32_t>(lane + 4 * kLine);
    for (int k = 0; k < 4; ++k) {
      const auto pair = get_word<std::uint32_t>(lane + k * kLine);
      const std::uint32_t first = move_bits(pair, 0, 4, 0) | move_bits(highest, 2 * k, 1, 4);
      const std::uint32_t second = move_bits(pair, 4, 4, 0) | move_bits(highest, 2 * k + 1, 1, 4);
      put_word<5>(codes + 5 * k, gather<5>(first | std::uint64_t{second} << 32));
    }
  } else {
    for (int k = 0; k < kBits; ++k) put_word<4>(codes + 4 * k, get_word<std::uint32_t>(lane + k * kLine));
  }
}

/// Codes [0, cols) of a row's bit stream, which begins at a byte -> its words of as many units as that takes.
template <int kBits>
void put_codes(const std::uint8_t* stream, std::int64_t cols, std::uint8_t* lane) noexcept {
  for (; cols >= kUnitCols; cols -= kUnitCols, stream += 4 * kBits, lane += kBits * kLine)
    put_unit<kBits>(stream, lane);
  if (cols == 0) return;
  std::uint8_t rest[4 * kBits] = {};
  std::memcpy(rest, stream, static_cast<std::size_t>(stream_bytes(cols, kBits)));
  put_unit<kBits>(rest, lane);
}

/// The inverse.
template <int kBits>
void get_codes(const std::uint8_t* lane, std::int64_t cols, std::uint8_t* stream) noexcept {
  for (; cols >= kUnitCols; cols -= kUnitCols, stream += 4 * kBits, lane += kBits * kLine)
    get_unit<kBits>(lane, stream);
  if (cols == 0) return;
  std::uint8_t rest[4 * kBits];
  get_unit<kBits>(lane, rest);
  std::memcpy(stream, rest, static_cast<std::size_t>(stream_bytes(cols, kBits)));
}

/// Four words of four rows -> four lines of four lanes.
[[gnu::always_inline]] inline void transpose_words(const std::uint8_t* from, std::int64_t row,
                                                   std::uint8_t* lane) noexcept {
  using Four [[gnu::vector_size(16)]] = std::uint32_t;
  Four r[4];
  for (int k = 0; k < 4; ++k) std::memcpy(&r[k], from + k * row, sizeof r[k]);
#if defined(__clang__)
  const auto low = [](Four a, Four b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); };
  const auto high = [](Four a, Four b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); };
#else
  const auto low = [](Four a, Four b) { return __builtin_shuffle(a, b, Four{0, 4, 1, 5}); };
  const auto high = [](Four a, Four b) { return __builtin_shuffle(a, b, Four{2, 6, 3, 7}); };
#endif
  const Four even[2] = {low(r[0], r[2]), low(r[1], r[3])};
  const Four odd[2] = {high(r[0], r[2]), high(r[1], r[3])};
  const Four lines[4] = {low(even[0], even[1]), high(even[0], even[1]), low(odd[0], odd[1]), high(odd[0], odd[1])};
  for (int k = 0; k < 4; ++k) std::memcpy(lane + k * kLine, &lines[k], sizeof lines[k]);
}

/// The same as put_codes of four rows, `row` bytes apart, to four lanes.
template <int kBits>
void put_codes_of_four(const std::uint8_t* stream, std::int64_t row, std::int64_t cols, std::uint8_t* lane) noexcept {
  if constexpr (kBits == 2 || kBits == 4 || kBits == 8) {  // words as they are
    constexpr std::int64_t kCols = kBits == 2 ? 2 * kUnitCols : kUnitCols;
    for (; cols >= kCols; cols -= kCols)
      for (int k = 0; k < kCols * kBits / 128; ++k, stream += 16, lane += 4 * kLine) transpose_words(stream, row, lane);
  }
  for (int k = 0; k < 4; ++k) put_codes<kBits>(stream + k * row, cols, lane + 4 * k);
}

/// Codes [first, first + count) of one lane of a block's units, one byte each.
template <int kBits>
void read_unit_codes(const std::uint8_t* lane, std::int64_t first, std::int64_t count, std::uint8_t* codes) noexcept {
  for (const std::int64_t end = first + count; first < end;) {
    std::uint8_t stream[4 * kBits];
    std::uint8_t unit[kUnitCols];
    get_unit<kBits>(lane + first / kUnitCols * kBits * kLine, stream);
    read_codes<kBits>(stream, 0, kUnitCols, unit);
    const std::int64_t at = first % kUnitCols;
    const std::int64_t n = std::min(kUnitCols - at, end - first);
    std::memcpy(codes, unit + at, static_cast<std::size_t>(n));
    codes += n;
    first += n;
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
