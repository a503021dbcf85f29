// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "platform.hpp"

// The order in which the kernels read a matrix: where each bit lies. Plain arithmetic, the same on host and device.
//
//   strip   16 rows of one panel, the rows of a tensor-core operand
//   unit    a strip x 64 columns = four mma of 16 columns; 32 weights per lane = `bits` words per lane
//
//   codes      strip x unit x (128 bits) bytes    one unit after the other, so that a warp that walks along its strip
//                                                 reads one contiguous stream
//   aux        strip x stride bytes               records of groups, one after the other (below)
//   col_scale  panel x (64 units) elements        as stored, padded with zeros
//
// Who holds what is fixed by the fragments of mma.m16n8k16 (instructions.cuh), except that the order of the columns is
// free as long as the activations follow it. Lane 4 g + t gets, for each of the four steps of 16 columns, the columns
// 16 step + 4 t + {0, 1, 2, 3} of rows g and g + 8: every step stays within one group whatever the group size, and the
// activations of a lane are contiguous after one permutation of 64 columns.
//
// Direct codes (levels on an even grid). A half with the bits 0000'0000'0000'0qqq is the subnormal number q 2^-24, and
// so a mask turns codes into operands: no magic constant, no subtraction. Codes that sit s bits higher are 2^s times
// larger, which the activations of their columns undo. Widths that are no power of two are a main plane of p = 2 or 4
// bits and a second plane of q = 1 or 2 bits above it. For the column pair c = 0 ... 7 of the lane (2 step + pair in
// the step):
//
//   bit of a 16-bit half     15 ................ 8   7 ................. 0        the other half: the pair's second
//   column main plane               row g+8, pairs ...c+1 c  row g, pairs ... c+1 c      p bits each, 8/p pairs per
//   word second plane             the same places moved up by p after a shift by one of 2p/q distances per word
//
// Paired codes (levels from a table). The two codes of a column pair are one index of 2 bits into a table of pairs of
// halves.

namespace sinq::inline SINQ_ABI::detail::cuda {

inline constexpr int kStripRows = 16;
inline constexpr int kUnitCols = 64;
inline constexpr int kStepCols = 16;

/// Bits of the main plane of direct codes, and of the second plane.
SINQ_CUDA_BOTH constexpr int main_bits(int bits) {
  return bits >= 8 ? 8 : bits >= 4 ? 4 : 2;
}
SINQ_CUDA_BOTH constexpr int second_bits(int bits) {
  return bits - main_bits(bits);
}

/// A bit within a lane's words of a unit.
struct BitPlace {
  int word;
  int bit;
};

/// Main plane, row g (`upper` 0) or g + 8 (1), column pair 0 ... 7, the pair's first column: lowest bit.
SINQ_CUDA_BOTH constexpr BitPlace main_place(int bits, int pair, int upper) {
  const int p = main_bits(bits), per_word = 8 / p;
  return {pair / per_word, 8 * upper + p * (pair % per_word)};
}

/// The same for the second plane: q bits that belong p above the main plane's. `shift` to the right brings them there.
struct SecondPlace {
  int word;
  int bit;
  int shift;
};
SINQ_CUDA_BOTH constexpr SecondPlace second_place(int bits, int pair, int upper) {
  const int p = main_bits(bits), q = second_bits(bits), per_word = 8 / p;
  const int copy = upper + 2 * (pair / per_word);  // pairs with the same place in the main plane
  const int distance = q * (copy % (p / q)) + 8 * (copy / (p / q) % 2);
  return {p + copy / (2 * p / q), p * (pair % per_word) + distance, distance - p};
}

/// By how many bits the operands of a column pair are too high: their activations are multiplied by 2^-shift.
SINQ_CUDA_BOTH constexpr int operand_shift(int bits, int pair) {
  return main_bits(bits) * (pair % (8 / main_bits(bits)));
}

/// log2 of the bytes of a row of a table of levels, a word or more for each bank. Words of paired codes are rotated by
/// that, so that the first index of a word is an offset into the table without a shift.
inline constexpr int kRowBit = 7;

/// Paired codes: where bit `b` of 2 bits of the index of a pair lies. At 3 bits, five indices of 6 bits fill 30 bits of
/// a word and the last index takes the two that are left of each of the three words.
SINQ_CUDA_BOTH constexpr BitPlace index_place(int bits, int pair, int upper, int b) {
  const int k = 2 * pair + upper, per_word = bits == 3 ? 5 : 16 / bits;
  if (k == 3 * per_word && bits == 3) return {b / 2, (30 + b % 2 + kRowBit) % 32};
  return {k / per_word, (2 * bits * (k % per_word) + b + kRowBit) % 32};
}

/// Bits of paired codes that are looked up at once: the index of a pair, with 2 bits those of rows g and g + 8.
SINQ_CUDA_BOTH constexpr int index_bits(int bits) {
  return bits == 2 ? 8 : 2 * bits;
}

/// Word `word` of a lane, counted from the start of a unit: groups of four, two and one words per lane, so that a lane
/// reads them with the widest loads and a warp reads contiguous bytes.
SINQ_CUDA_BOTH constexpr int word_in_unit(int bits, int lane, int word) {
  const int fours = bits / 4 * 4;
  if (word < fours) return word / 4 * 4 * kLanes + 4 * lane + word % 4;
  const int twos = bits % 4 / 2 * 2;
  if (word < fours + twos) return fours * kLanes + 2 * lane + word - fours;
  return (fours + twos) * kLanes + lane;
}

SINQ_CUDA_BOTH constexpr int unit_bytes(int bits) {
  return 4 * kLanes * bits;
}

/// How a stored number becomes a value.
enum class Number : std::uint8_t { unsigned_integer, signed_integer, f16, bf16, f32 };

/// The fields of one auxiliary: value = number * factor + offset (floats: the number itself).
struct Field {
  int bits = 0;  // 0: no field is stored, the value is `offset`
  Number number = Number::unsigned_integer;
  float factor = 1;
  float offset = 0;
};

/// A matrix as the kernels see it. The aux stream of a strip, in the order of groups:
///
///   [coarse scales of 16 rows, half]  before groups 0, coarse_groups, 2 coarse_groups, ... where scales are integers
///   record of record_groups groups    scales of 16 rows, scale.bits each, then zeros of 16 rows, zero.bits each;
///   record of the next groups ...     groups that do not exist are 0
///
/// What a lane decodes at once lies together, at most 64 bits of scales and of zeros: rows g and g + 8 of the first
/// group, of the second, ... (field_bit).
struct Weights {
  const std::uint8_t* codes = nullptr;
  const std::uint8_t* aux = nullptr;
  const std::uint8_t* col_scale = nullptr;
  int rows = 0;
  int cols = 0;
  int bits = 0;
  bool paired = false;  // levels come from the table `levels`
  int units = 0;        // per strip
  int group_size = 0;
  int groups = 0;
  int period = 0;  // largest of 16, 32, 64 that divides the group size: sums over columns end at its multiples
  int tile_height = 0;
  int panels = 0;
  int panel_strips = 0;   // strips per panel; the last panel may have fewer
  int aux_stride = 0;     // bytes per strip, a multiple of 16
  int header = 0;         // bytes of coarse scales: 32 or 0
  int record_groups = 1;  // 64 columns' where groups of integers are shorter, else one
  int record = 0;         // bytes
  int coarse_groups = 0;
  int coarse_records = 0;  // that these groups make
  int aux_rate = 0;        // bytes of records per unit, on average, times 256, rounded up
  Field scale;
  Field zero;
  bool has_col_scale = false;
  Number col_number = Number::f32;
  float levels[16] = {};  // of paired codes

  /// Records per strip.
  [[nodiscard]] SINQ_CUDA_BOTH constexpr int records() const { return (groups + record_groups - 1) / record_groups; }
  /// Whether weights have a zero, stored or the same for all.
  [[nodiscard]] SINQ_CUDA_BOTH constexpr bool has_zero() const { return zero.bits != 0 || zero.offset != 0; }
  /// The first bit of a field of `bits` bits of a row in group `group` of a record, from that of row 0 in group 0.
  [[nodiscard]] SINQ_CUDA_BOTH constexpr int field_bit(int bits, int row, int group) const {
    return bits * (2 * (row % 8 * record_groups + group) + row / 8);
  }
  /// The first bit of a record's zeros.
  [[nodiscard]] SINQ_CUDA_BOTH constexpr int zeros_bit() const { return kStripRows * record_groups * scale.bits; }
};

[[nodiscard]] SINQ_CUDA_BOTH constexpr std::int64_t strips_of(const Weights& w) {
  const int last = w.rows - (w.panels - 1) * w.tile_height;
  return std::int64_t{w.panels - 1} * w.panel_strips + (last + kStripRows - 1) / kStripRows;
}

/// Where the records of a strip lie, one after the other.
struct RecordCursor {
  int end_col = 0;   // first column behind the record; the last one's may lie beyond the matrix
  int in_block = 0;  // records since the last coarse scales; only counted where there are any
  int offset = 0;    // byte of the record in the strip's stream

  SINQ_CUDA_BOTH static RecordCursor at(const Weights& w, int col) {
    RecordCursor c;
    const int cols = w.record_groups * w.group_size;
    const int record = col / cols, block = record / w.coarse_records;
    c.end_col = (record + 1) * cols;
    c.in_block = record - block * w.coarse_records;
    c.offset = block * (w.header + w.coarse_records * w.record) + w.header + c.in_block * w.record;
    return c;
  }
  /// Whether other coarse scales begin.
  SINQ_CUDA_BOTH bool advance(const Weights& w, int records = 1) {
    end_col += records * w.record_groups * w.group_size;
    offset += records * w.record;
    if (w.header == 0) return false;
    in_block += records;
    const bool begin = in_block >= w.coarse_records;
    for (; in_block >= w.coarse_records; in_block -= w.coarse_records) offset += w.header;
    return begin;
  }
  /// Byte of the coarse scales that the group uses.
  [[nodiscard]] SINQ_CUDA_BOTH int header_offset(const Weights& w) const {
    return offset - in_block * w.record - w.header;
  }
};

}  // namespace sinq::inline SINQ_ABI::detail::cuda
