// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "packed_matrix.hpp"

// Parts of a matrix that are matrices of the same format, for tensor parallelism: each device multiplies by its own.
//
//   rows      every part gives some of the outputs; the products have the bits of the whole one's
//   columns   every part takes some of the inputs; the products add up to the whole one's

namespace sinq::inline SINQ_ABI {
namespace detail::pack {

/// Copies `count` entries of n bits from one row of a bit stream, beginning with number `first`, to the begin of
/// another.
inline void copy_entries(const std::uint8_t* from, std::int64_t first, std::int64_t count, int n,
                         std::uint8_t* to) noexcept {
  if (first * n % 8 == 0 && count * n % 8 == 0) {
    std::memcpy(to, from + first * n / 8, static_cast<std::size_t>(count * n / 8));
  } else {
    for (std::int64_t k = 0; k < count; ++k) put_entry(to, k * n, n, get_entry(from, (first + k) * n, n));
  }
}

/// Whether [first, first + count) are rows of a matrix that may become one.
inline void require_rows(const Format& f, const Tiling& t, std::int64_t first, std::int64_t count) {
  using core::require;
  require(first >= 0 && first < t.rows, "first", first, "must be one of the ", t.rows, " rows of the matrix");
  require(count >= 1 && count <= t.rows - first, "count", count, "must be 1 to ", t.rows - first,
          ", the rows from the first on");
  require(f.tile == Tile::stripe || first % t.tile_height == 0, "first", first, "must be a multiple of ", t.tile_height,
          ", the first row of a tile");
}

}  // namespace detail::pack

/// Rows [first, first + count). With square tiles `first` must begin one.
[[nodiscard]] inline QuantizedMatrix slice_rows(const QuantizedMatrix& q, std::int64_t first, std::int64_t count) {
  validate(q);
  const Tiling t = q.tiling();
  detail::pack::require_rows(q.format, t, first, count);
  QuantizedMatrix part = make_quantized_matrix(q.format, count, q.cols);
  part.table = q.table;
  const auto e = detail::pack::extents(q.format, t);
  const auto copy = [](const std::vector<std::uint8_t>& from, std::int64_t row, std::int64_t bytes,
                       std::vector<std::uint8_t>& to) {
    if (!to.empty()) std::memcpy(to.data(), from.data() + row * bytes, to.size());
  };
  copy(q.codes, first, e.code_row, part.codes);
  copy(q.scale, first, e.scale_row, part.scale);
  copy(q.zero, first, e.zero_row, part.zero);
  copy(q.coarse_scale, first, e.coarse_row, part.coarse_scale);
  copy(q.col_scale, t.panel_of(first), e.col_row, part.col_scale);
  return part;
}

/// Columns [first, first + count): whole groups, and whole sets of groups that share a coarse scale. A matrix whose
/// group or tile is the whole row has one part only.
[[nodiscard]] inline QuantizedMatrix slice_cols(const QuantizedMatrix& q, std::int64_t first, std::int64_t count,
                                                Executor* executor = nullptr) {
  using detail::core::require;
  validate(q);
  const Tiling t = q.tiling();
  const Format& f = q.format;
  const std::int64_t width = t.group_size * std::max<std::int64_t>(1, f.coarse_groups);
  require(first >= 0 && first < q.cols && first % width == 0, "first", first, "must be a multiple of ", width,
          " below ", q.cols,
          ": the first column of a group (with coarse_groups, of the first that share a coarse scale)");
  require(count >= 1 && count <= q.cols - first && (count % width == 0 || first + count == q.cols), "count", count,
          "must be ", q.cols - first, ", all that is left, or a smaller multiple of ", width,
          ": whole groups (with coarse_groups, all that share a coarse scale)");
  QuantizedMatrix part = make_quantized_matrix(f, q.rows, count);
  part.table = q.table;
  const Tiling u = part.tiling();
  const auto from = detail::pack::extents(f, t);
  const auto to = detail::pack::extents(f, u);
  SerialExecutor serial;
  const auto copy = [&](std::int64_t rows, const std::vector<std::uint8_t>& whole, std::int64_t whole_row,
                        std::int64_t begin, std::int64_t entries, int bits, std::vector<std::uint8_t>& out,
                        std::int64_t row) {
    if (row == 0) return;
    constexpr std::int64_t kRows = 64;  // of a task
    (executor ? *executor : serial).run((rows + kRows - 1) / kRows, [&](std::int64_t task, int) {
      for (std::int64_t i = task * kRows; i < std::min((task + 1) * kRows, rows); ++i)
        detail::pack::copy_entries(whole.data() + i * whole_row, begin, entries, bits, out.data() + i * row);
    });
  };
  const std::int64_t group = first / t.group_size;
  const std::int64_t coarse = f.coarse_groups == 0 ? 0 : group / f.coarse_groups;
  copy(q.rows, q.codes, from.code_row, first, count, f.bits, part.codes, to.code_row);
  copy(q.rows, q.scale, from.scale_row, group, u.groups(), bits_of(f.scale), part.scale, to.scale_row);
  copy(q.rows, q.zero, from.zero_row, group, u.groups(), bits_of(f.zero), part.zero, to.zero_row);
  copy(q.rows, q.coarse_scale, from.coarse_row, coarse, detail::pack::coarse_per_row(f, u), 16, part.coarse_scale,
       to.coarse_row);
  copy(t.panels(), q.col_scale, from.col_row, first, count, bits_of(f.col_scale), part.col_scale, to.col_row);
  return part;
}

/// The same of packed matrices, on the executor. Where parts begin and end with a strip, as at multiples of 16 rows of
/// stripes and at tiles, strips are copied; otherwise the part is unpacked and packed again.
[[nodiscard]] inline PackedMatrix slice_rows(const PackedMatrix& p, std::int64_t first, std::int64_t count,
                                             Executor* executor = nullptr) {
  using namespace detail::pack;
  require_packed(p, "p");
  const StripOrder& o = p.order_;
  require_rows(p.format_, o.tiling, first, count);
  const std::int64_t begin = o.strip_of(first);
  const std::int64_t last = o.strip_of(first + count - 1);
  if (o.lane_of(first) != 0 || o.first_row(last) + o.rows(last) != first + count)
    return pack(unpack_rows(p, first, count, executor), executor);
  PackedMatrix part(frame_of(p, first, count));
  SerialExecutor serial;
  (executor ? *executor : serial).run(part.order_.strips, [&](std::int64_t s, int) {
    std::memcpy(part.strip(s), p.strip(begin + s), static_cast<std::size_t>(o.strip));
  });
  return part;
}
[[nodiscard]] inline PackedMatrix slice_cols(const PackedMatrix& p, std::int64_t first, std::int64_t count,
                                             Executor* executor = nullptr) {
  return pack(slice_cols(unpack(p, executor), first, count, executor), executor);
}

}  // namespace sinq::inline SINQ_ABI
