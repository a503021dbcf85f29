// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "auxiliary.hpp"

namespace sinq::inline SINQ_ABI {

/// A quantized matrix in canonical bit order: what is stored, and what every kernel's order is made from.
///
///   W[i,j]  ~=  (level(code[i,j]) - zero[i,g]) * scale[i,g] * col_scale[p,j]        g = group of j, p = panel of i
///
/// The arrays are row-major bytes, little-endian; `make_quantized_matrix` gives each its size:
///
///   codes         rows   x cols     bit streams of `bits` bits (pack/bitstream.hpp), one per row, the last byte filled
///                                   up with zeros
///   scale, zero   rows   x groups   f16/bf16/f32, or bit streams of 4 to 8 bits, one per row
///   coarse_scale  rows   x coarse   f16; only beside integer scales
///   col_scale     panels x cols     f16/bf16/f32; empty where there is no second axis
///   table         2^bits levels; only for Levels::table
///
/// A plain struct, so that an engine with a container of its own can fill it; whoever receives one calls `validate`.
struct QuantizedMatrix {
  Format format;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> scale;
  std::vector<std::uint8_t> zero;
  std::vector<std::uint8_t> coarse_scale;
  std::vector<std::uint8_t> col_scale;
  LevelTable table{};

  [[nodiscard]] Tiling tiling() const { return sinq::tiling(rows, cols, format.group_size, format.tile); }

  /// Bytes of everything that is stored: codes, auxiliaries, column scales, level table, padding of rows included.
  [[nodiscard]] std::int64_t bytes() const noexcept {
    return static_cast<std::int64_t>(codes.size() + scale.size() + zero.size() + coarse_scale.size() +
                                     col_scale.size()) +
           detail::pack::table_bytes(format);
  }

  /// Exact stored size: 8 bytes() / (rows cols).
  [[nodiscard]] double bits_per_weight() const noexcept {
    return 8.0 * static_cast<double>(bytes()) / (static_cast<double>(rows) * static_cast<double>(cols));
  }

  friend bool operator==(const QuantizedMatrix&, const QuantizedMatrix&) = default;
};

namespace detail::pack {

/// What is wrong with the values of a matrix.
struct Fault {
  const char* part;  // as files call it (store/format.hpp): the array's name, or "levels" for the table
  std::int64_t byte;
  std::string what;  // "scale[3] is not finite"
};

/// The first fault of a matrix of a legal format whose arrays have the right sizes. The one place that knows:
/// `validate` makes an InvalidArgument of it, and the reader of files, which names the file and the byte, a
/// FormatError.
[[nodiscard]] inline std::optional<Fault> fault_of(const QuantizedMatrix& q) {
  std::optional<Fault> fault;
  const Tiling t = q.tiling();
  const auto check_ends = [&](const std::vector<std::uint8_t>& array, const char* name, std::int64_t entries,
                              int bits) {
    const int used = static_cast<int>(entries * bits % 8);  // of the last byte; 0: all
    const std::int64_t row = stream_bytes(entries, bits);
    for (std::int64_t at = row - 1; used != 0 && !fault && at < std::ssize(array); at += row)
      if (array[static_cast<std::size_t>(at)] >> used != 0)
        fault = {name, at, core::text(name, " has bits set behind the end of row ", at / row)};
  };
  check_ends(q.codes, "codes", t.cols, q.format.bits);
  check_ends(q.scale, "scale", t.groups(), bits_of(q.format.scale));
  check_ends(q.zero, "zero", t.groups(), bits_of(q.format.zero));
  const auto check = [&](const std::vector<std::uint8_t>& array, const char* name, Aux aux) {
    if (fault || !is_float(aux)) return;
    const std::int64_t size = bits_of(aux) / 8;
    for (std::int64_t k = 0; k < std::ssize(array) / size; ++k) {
      float value = 0;
      read_floats(aux, array.data(), k, 1, &value);
      if (core::is_finite(value)) continue;
      fault = {name, k * size, core::text(name, "[", k, "] is not finite")};
      return;
    }
  };
  check(q.scale, "scale", q.format.scale);
  check(q.zero, "zero", q.format.zero);
  check(q.coarse_scale, "coarse_scale", Aux::f16);
  check(q.col_scale, "col_scale", q.format.col_scale);
  const auto levels = static_cast<std::size_t>(table_bytes(q.format));
  for (std::size_t k = 0; k < q.table.size() && !fault; ++k)
    if (k >= levels ? q.table[k] != 0 : k > 0 && q.table[k] < q.table[k - 1])
      fault = {"levels", static_cast<std::int64_t>(k),
               core::text("table[", k, "] = ", int{q.table[k]}, ": ",
                          k >= levels ? "unused entries are zero" : "levels never fall")};
  return fault;
}

}  // namespace detail::pack

/// Throws InvalidArgument unless the format is a legal one, every array has the size that the format, rows and cols
/// ask for, bits behind the end of a row are zero, all coarse scales, float auxiliaries and column scales are finite,
/// and the table never falls up to entry 2^bits and is zero from there on (and where there is none).
inline void validate(const QuantizedMatrix& q) {
  detail::pack::validate(q.format);
  const Tiling t = q.tiling();
  const auto e = detail::pack::extents(q.format, t);
  const auto sized = [](const std::vector<std::uint8_t>& array, const char* name, std::int64_t rows, std::int64_t row) {
    if (static_cast<std::int64_t>(array.size()) != rows * row)
      detail::core::raise<InvalidArgument>(
          detail::core::text("sinq: ", name, " has ", array.size(), " bytes, the format asks for ", rows * row));
  };
  sized(q.codes, "codes", q.rows, e.code_row);
  sized(q.scale, "scale", q.rows, e.scale_row);
  sized(q.zero, "zero", q.rows, e.zero_row);
  sized(q.coarse_scale, "coarse_scale", q.rows, e.coarse_row);
  sized(q.col_scale, "col_scale", t.panels(), e.col_row);
  if (const auto fault = detail::pack::fault_of(q)) detail::core::raise<InvalidArgument>("sinq: " + fault->what);
}

/// Bytes that a matrix of the given format and size takes, as its `bytes()` will say. InvalidArgument unless both are
/// legal.
[[nodiscard]] inline std::int64_t stored_bytes(const Format& format, std::int64_t rows, std::int64_t cols) {
  detail::pack::validate(format);
  const Tiling t = tiling(rows, cols, format.group_size, format.tile);
  const auto e = detail::pack::extents(format, t);
  return rows * (e.code_row + e.scale_row + e.zero_row + e.coarse_row) + t.panels() * e.col_row +
         detail::pack::table_bytes(format);
}

/// A matrix of the given format and size with every array allocated and zero.
[[nodiscard]] inline QuantizedMatrix make_quantized_matrix(const Format& format, std::int64_t rows, std::int64_t cols) {
  detail::pack::validate(format);
  QuantizedMatrix q;
  q.format = format;
  q.rows = rows;
  q.cols = cols;
  const Tiling t = q.tiling();
  const auto e = detail::pack::extents(format, t);
  q.codes.resize(static_cast<std::size_t>(rows * e.code_row));
  q.scale.resize(static_cast<std::size_t>(rows * e.scale_row));
  q.zero.resize(static_cast<std::size_t>(rows * e.zero_row));
  q.coarse_scale.resize(static_cast<std::size_t>(rows * e.coarse_row));
  q.col_scale.resize(static_cast<std::size_t>(t.panels() * e.col_row));
  return q;
}

}  // namespace sinq::inline SINQ_ABI
