// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "../pack.hpp"
#include "codes.hpp"

// Canonical order <-> kernel order, on the host. Nothing is lost or added but padding, so the way back gives the same
// bytes.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// The largest matrix the kernels take. They count the bytes of a strip's records in 32 bits, times 256 (stream.cuh):
/// groups of 16 with scales and zeros of 32 bits have 128 bytes each, 2^30 / 256 in 2^19 columns.
inline constexpr std::int64_t kMostCols = std::int64_t{1} << 19;
inline constexpr std::int64_t kMostRows = std::int64_t{1} << 26;

/// A matrix in kernel order is one piece of memory: codes, auxiliaries, column scales.
struct KernelOrder {
  Weights weights;  // without addresses
  std::int64_t strips = 0;
  std::int64_t aux_at = 0;
  std::int64_t col_scale_at = 0;
  std::int64_t bytes = 0;

  [[nodiscard]] Weights place(const std::uint8_t* memory) const {
    Weights w = weights;
    w.codes = memory;
    w.aux = memory + aux_at;
    w.col_scale = memory + col_scale_at;
    return w;
  }
};

[[nodiscard]] inline Number number_of(Aux aux, bool is_signed = false) noexcept {
  switch (aux) {
    case Aux::f16:
      return Number::f16;
    case Aux::bf16:
      return Number::bf16;
    case Aux::f32:
      return Number::f32;
    default:
      return is_signed ? Number::signed_integer : Number::unsigned_integer;
  }
}

/// Sizes and constants for a matrix of a valid format. InvalidArgument beyond 2^26 rows or 2^19 columns.
[[nodiscard]] inline KernelOrder kernel_order(const Format& f, const LevelTable& table, std::int64_t rows,
                                              std::int64_t cols) {
  core::require(rows <= kMostRows, "rows", rows, "the GPU kernels take up to 2^26");
  core::require(cols <= kMostCols, "cols", cols, "the GPU kernels take up to 2^19");
  const Tiling t = tiling(rows, cols, f.group_size, f.tile);
  KernelOrder order;
  Weights& w = order.weights;
  w.rows = static_cast<int>(rows);
  w.cols = static_cast<int>(cols);
  w.bits = f.bits;
  w.paired = f.levels > Levels::symmetric;
  w.units = static_cast<int>((cols + kUnitCols - 1) / kUnitCols);
  w.group_size = static_cast<int>(t.group_size);
  w.groups = static_cast<int>(t.groups());
  // A group that is the whole row ends with the matrix, whatever its size.
  w.period = t.groups() == 1 || t.group_size % 64 == 0 ? 64 : t.group_size % 32 == 0 ? 32 : 16;
  w.tile_height = static_cast<int>(t.tile_height);
  w.panels = static_cast<int>(t.panels());
  w.panel_strips = static_cast<int>((std::min(t.tile_height, rows) + kStripRows - 1) / kStripRows);
  w.scale.bits = bits_of(f.scale);
  w.scale.number = number_of(f.scale, f.signed_scale);
  if (is_integer(f.scale)) w.scale.factor = pack::scale_share(f.scale, f.signed_scale, 1);  // times the coarse scale
  w.zero.bits = bits_of(f.zero);
  w.zero.number = number_of(f.zero);
  if (is_integer(f.zero)) {
    const core::LevelSpan span = core::level_span(f.levels, f.bits);
    w.zero.offset = span.low;
    w.zero.factor = span.width / static_cast<float>(1 << bits_of(f.zero));
  }
  // The operands are codes: the levels of `symmetric` begin at -2^(bits-1), which is a zero like any other.
  if (f.levels == Levels::symmetric) w.zero.offset = static_cast<float>(1 << (f.bits - 1));
  w.header = is_integer(f.scale) ? 2 * kStripRows : 0;
  w.coarse_groups = static_cast<int>(f.coarse_groups == 0 ? t.groups() : std::min(f.coarse_groups, t.groups()));
  // The groups of a unit, if it has whole ones and none begins with coarse scales.
  const int unit_groups = kUnitCols / w.period;
  if (is_integer(f.scale) && !is_float(f.zero) && w.group_size == w.period &&
      (w.coarse_groups == w.groups || w.coarse_groups % unit_groups == 0))
    w.record_groups = unit_groups;
  w.coarse_records = (w.coarse_groups + w.record_groups - 1) / w.record_groups;
  w.record = kStripRows / 8 * (w.scale.bits + w.zero.bits) * w.record_groups;
  const RecordCursor last = RecordCursor::at(w, (w.groups - 1) * w.group_size);
  w.aux_stride = (last.offset + w.record + 15) / 16 * 16;
  // A row of one group is brought at once, with what a stream is ahead anyway.
  const std::int64_t block_bytes = w.header + std::int64_t{w.coarse_records} * w.record;
  const std::int64_t block_cols = std::int64_t{w.coarse_groups} * w.group_size;
  w.aux_rate = w.groups == 1 ? 0 : static_cast<int>((256 * kUnitCols * block_bytes + block_cols - 1) / block_cols);
  w.has_col_scale = f.col_scale != Aux::none;
  w.col_number = number_of(f.col_scale);
  for (int code = 0; w.paired && code < 1 << f.bits; ++code)
    w.levels[code] = core::level(f.levels, f.bits, table, code);

  const auto aligned = [](std::int64_t bytes) { return (bytes + 255) / 256 * 256; };
  order.strips = strips_of(w);
  order.aux_at = aligned(order.strips * w.units * unit_bytes(w.bits));
  order.col_scale_at = order.aux_at + aligned(order.strips * w.aux_stride);
  order.bytes = order.col_scale_at +
                aligned(t.panels() * w.units * kUnitCols * static_cast<std::int64_t>(bits_of(f.col_scale) / 8));
  return order;
}

/// Calls visit(strip, first_row, rows, codes) for every strip, on the executor's threads; `codes` are room for those of
/// a strip, 16 rows of whole units, one byte each.
template <class Visitor>
void for_strips(const Weights& w, Executor* executor, Visitor&& visit) {
  SerialExecutor serial;
  Executor& threads = executor ? *executor : serial;
  const std::size_t size = static_cast<std::size_t>(w.units) * (kStripRows * kUnitCols);
  std::vector<std::uint8_t> codes(size * static_cast<std::size_t>(core::width_of(threads)));
  threads.run(strips_of(w), [&](std::int64_t strip, int worker) {
    const std::int64_t panel = strip / w.panel_strips, in_panel = (strip - panel * w.panel_strips) * kStripRows;
    const std::int64_t row = panel * w.tile_height + in_panel;
    const std::int64_t rows = std::min({std::int64_t{kStripRows}, w.tile_height - in_panel, w.rows - row});
    visit(strip, row, rows, codes.data() + size * static_cast<std::size_t>(worker));
  });
}

/// Moves the auxiliaries between a row's canonical streams and the records of its strip:
/// move(array, bit in the array, bit in the strip's stream, bits).
template <class Move>
void move_auxiliaries(const Format& f, const Weights& w, std::int64_t row, int row_in_strip, Move&& move) {
  const pack::Extents e = pack::extents(f, tiling(w.rows, w.cols, f.group_size, f.tile));
  RecordCursor cursor = RecordCursor::at(w, 0);
  for (int g = 0; g < w.groups; ++g) {
    const int in_record = g % w.record_groups;
    if (g != 0 && in_record == 0) cursor.advance(w);
    const std::int64_t record = std::int64_t{8} * cursor.offset;
    if (w.header != 0 && g % w.coarse_groups == 0)
      move(&QuantizedMatrix::coarse_scale, 8 * (row * e.coarse_row + 2 * (g / w.coarse_groups)),
           std::int64_t{8} * cursor.header_offset(w) + 16 * row_in_strip, 16);
    move(&QuantizedMatrix::scale, 8 * row * e.scale_row + std::int64_t{g} * w.scale.bits,
         record + w.field_bit(w.scale.bits, row_in_strip, in_record), w.scale.bits);
    if (w.zero.bits != 0)
      move(&QuantizedMatrix::zero, 8 * row * e.zero_row + std::int64_t{g} * w.zero.bits,
           record + w.zeros_bit() + w.field_bit(w.zero.bits, row_in_strip, in_record), w.zero.bits);
  }
}

/// Calls visit(pair, upper, second, place) for a lane's 32 codes of a unit. All are constants but `place`, where the
/// code lies among those of the unit, 16 rows of `cols` bytes.
template <class Visitor>
void for_codes(int lane, std::size_t cols, Visitor&& visit) {
  const auto first = static_cast<std::size_t>(lane / 4) * cols + static_cast<std::size_t>(4 * (lane % 4));
  const auto all = [&]<int... kI>(std::integer_sequence<int, kI...>) {
    (visit(kI / 4, kI / 2 % 2, kI % 2, first + kI / 2 % 2 * 8 * cols + kI / 8 * kStepCols + kI / 4 % 2 * 2 + kI % 2),
     ...);
  };
  all(std::make_integer_sequence<int, 32>{});
}

/// A strip's codes, 16 rows of one byte each, into units of words, or back.
template <int kBits, bool kPaired>
void put_units(const std::uint8_t* codes, int units, std::uint8_t* to) {
  const auto cols = static_cast<std::size_t>(units) * kUnitCols;
  for (int unit = 0; unit < units; ++unit, codes += kUnitCols, to += unit_bytes(kBits))
    for (int lane = 0; lane < kLanes; ++lane) {
      std::uint32_t words[kBits] = {};
      for_codes(lane, cols, [&](int pair, int upper, int second, std::size_t place) {
        put_code<kBits, kPaired>(words, pair, upper, second, codes[place]);
      });
      for (int k = 0; k < kBits; ++k) std::memcpy(to + 4 * word_in_unit(kBits, lane, k), &words[k], 4);
    }
}
template <int kBits, bool kPaired>
void get_units(const std::uint8_t* from, int units, std::uint8_t* codes) {
  const auto cols = static_cast<std::size_t>(units) * kUnitCols;
  for (int unit = 0; unit < units; ++unit, codes += kUnitCols, from += unit_bytes(kBits))
    for (int lane = 0; lane < kLanes; ++lane) {
      std::uint32_t words[kBits];
      for (int k = 0; k < kBits; ++k) std::memcpy(&words[k], from + 4 * word_in_unit(kBits, lane, k), 4);
      for_codes(lane, cols, [&](int pair, int upper, int second, std::size_t place) {
        codes[place] = static_cast<std::uint8_t>(code_at<kBits, kPaired>(words, pair, upper, second));
      });
    }
}

/// A valid matrix in kernel order.
[[nodiscard]] inline std::vector<std::uint8_t> to_kernel_order(const QuantizedMatrix& q, const KernelOrder& order,
                                                               Executor* executor = nullptr) {
  const Weights& w = order.weights;
  const pack::Extents e = pack::extents(q.format, q.tiling());
  const std::int64_t stride = std::int64_t{w.units} * kUnitCols;
  std::vector<std::uint8_t> memory(static_cast<std::size_t>(order.bytes));
  for_strips(w, executor, [&](std::int64_t strip, std::int64_t first_row, std::int64_t rows, std::uint8_t* codes) {
    std::fill_n(codes, kStripRows * stride, std::uint8_t{0});
    std::uint8_t* aux = memory.data() + order.aux_at + strip * w.aux_stride;
    for (int r = 0; r < rows; ++r) {
      const std::int64_t row = first_row + r;
      pack::read_codes(w.bits, q.codes.data() + row * e.code_row, 0, q.cols, codes + r * stride);
      move_auxiliaries(q.format, w, row, r, [&](auto array, std::int64_t from, std::int64_t to, int bits) {
        pack::put_entry(aux, to, bits, pack::get_entry((q.*array).data(), from, bits));
      });
    }
    with_codes(w.bits, w.paired, [&](auto bits, auto paired) {
      put_units<bits(), paired()>(codes, w.units, memory.data() + strip * w.units * unit_bytes(w.bits));
    });
  });
  const std::int64_t element = bits_of(q.format.col_scale) / 8;
  for (std::int64_t p = 0; p < w.panels && element != 0; ++p)
    std::memcpy(memory.data() + order.col_scale_at + p * w.units * kUnitCols * element,
                q.col_scale.data() + p * e.col_row, static_cast<std::size_t>(e.col_row));
  return memory;
}

/// The way back.
[[nodiscard]] inline QuantizedMatrix from_kernel_order(const Format& format, const LevelTable& table,
                                                       const KernelOrder& order,
                                                       const std::vector<std::uint8_t>& memory,
                                                       Executor* executor = nullptr) {
  const Weights& w = order.weights;
  QuantizedMatrix q = make_quantized_matrix(format, w.rows, w.cols);
  q.table = table;
  const pack::Extents e = pack::extents(format, q.tiling());
  const std::int64_t stride = std::int64_t{w.units} * kUnitCols;
  for_strips(w, executor, [&](std::int64_t strip, std::int64_t first_row, std::int64_t rows, std::uint8_t* codes) {
    with_codes(w.bits, w.paired, [&](auto bits, auto paired) {
      get_units<bits(), paired()>(memory.data() + strip * w.units * unit_bytes(w.bits), w.units, codes);
    });
    const std::uint8_t* aux = memory.data() + order.aux_at + strip * w.aux_stride;
    for (int r = 0; r < rows; ++r) {
      const std::int64_t row = first_row + r;
      pack::write_codes(w.bits, q.codes.data() + row * e.code_row, 0, q.cols, codes + r * stride);
      move_auxiliaries(format, w, row, r, [&](auto array, std::int64_t to, std::int64_t from, int bits) {
        pack::put_entry((q.*array).data(), to, bits, pack::get_entry(aux, from, bits));
      });
    }
  });
  const std::int64_t element = bits_of(format.col_scale) / 8;
  for (std::int64_t p = 0; p < w.panels && element != 0; ++p)
    std::memcpy(q.col_scale.data() + p * e.col_row,
                memory.data() + order.col_scale_at + p * w.units * kUnitCols * element,
                static_cast<std::size_t>(e.col_row));
  return q;
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
