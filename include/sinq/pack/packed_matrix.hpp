// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <utility>

#include "../core/large_pages.hpp"
#include "strip_order.hpp"

namespace sinq::inline SINQ_ABI {
namespace detail::pack {
struct StripAccess;
}

/// A quantized matrix in the order in which the kernels read it (pack/strip_order.hpp). Made once, at load, by `pack`;
/// constant from then on, so any number of threads may multiply by it at once. It is empty (0 x 0) before, and after it
/// has been moved from.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(const PackedMatrix&) = default;
  PackedMatrix(PackedMatrix&& other) noexcept { swap(other); }
  PackedMatrix& operator=(PackedMatrix other) noexcept {
    swap(other);
    return *this;
  }
  ~PackedMatrix() = default;

  [[nodiscard]] std::int64_t rows() const noexcept { return order_.tiling.rows; }
  [[nodiscard]] std::int64_t cols() const noexcept { return order_.tiling.cols; }
  [[nodiscard]] const Format& format() const noexcept { return format_; }
  /// Bytes held in memory, the caller's (see pack) among them.
  [[nodiscard]] std::int64_t bytes() const noexcept {
    return order_.strips * order_.strip + std::ssize(col_scale_) + detail::pack::table_bytes(format_);
  }

 private:
  friend PackedMatrix pack(const QuantizedMatrix& q, Executor* executor);
  friend PackedMatrix pack(const QuantizedMatrix& q, std::span<std::byte> memory, Executor* executor);
  friend PackedMatrix slice_rows(const PackedMatrix& p, std::int64_t first, std::int64_t count, Executor* executor);
  friend detail::pack::StripAccess;

  struct alignas(detail::pack::kLine) Line {
    std::uint8_t bytes[detail::pack::kLine];
  };

  /// With all of `q` but what strips hold, and with room for these: in `memory` if given.
  explicit PackedMatrix(const QuantizedMatrix& q, std::byte* memory = nullptr)
      : format_(q.format),
        order_(q.format, q.tiling()),
        table_(q.table),
        col_scale_(q.col_scale),
        callers_(reinterpret_cast<std::uint8_t*>(memory)) {
    for (int code = 0; code < 1 << format_.bits; ++code)
      levels_[static_cast<std::size_t>(code)] = detail::core::level(format_.levels, format_.bits, table_, code);
    if (!callers_) lines_.resize(static_cast<std::size_t>(order_.strips * order_.strip / detail::pack::kLine));
  }

  /// The strips of `q`, on the executor.
  void fill(const QuantizedMatrix& q, Executor* executor);

  void swap(PackedMatrix& other) noexcept {
    std::swap(format_, other.format_);
    std::swap(order_, other.order_);
    std::swap(table_, other.table_);
    std::swap(levels_, other.levels_);
    std::swap(col_scale_, other.col_scale_);
    std::swap(lines_, other.lines_);
    std::swap(callers_, other.callers_);
  }

  [[nodiscard]] std::uint8_t* strip(std::int64_t s) noexcept {
    return (callers_ ? callers_ : reinterpret_cast<std::uint8_t*>(lines_.data())) + s * order_.strip;
  }
  [[nodiscard]] const std::uint8_t* strip(std::int64_t s) const noexcept {
    return (callers_ ? callers_ : reinterpret_cast<const std::uint8_t*>(lines_.data())) + s * order_.strip;
  }

  Format format_;
  detail::pack::StripOrder order_;
  LevelTable table_{};
  std::array<float, 256> levels_{};      // level(code) for every code
  std::vector<std::uint8_t> col_scale_;  // as in QuantizedMatrix
  std::vector<Line, detail::core::LargePages<Line>> lines_;
  std::uint8_t* callers_ = nullptr;  // in their place, memory that the caller owns
};

namespace detail::pack {

/// InvalidArgument unless there is a matrix.
inline void require_packed(const PackedMatrix& p, const char* name) {
  core::require(p.rows() > 0, name, "empty", "must hold a matrix, see pack");
}

/// What kernels see of a PackedMatrix.
struct StripAccess {
  static const StripOrder& order(const PackedMatrix& p) noexcept { return p.order_; }
  static const LevelTable& table(const PackedMatrix& p) noexcept { return p.table_; }
  static const std::array<float, 256>& levels(const PackedMatrix& p) noexcept { return p.levels_; }
  static const std::uint8_t* strip(const PackedMatrix& p, std::int64_t s) noexcept { return p.strip(s); }
  static const std::uint8_t* col_scale(const PackedMatrix& p) noexcept { return p.col_scale_.data(); }
};

/// A row's auxiliaries of a block: entries [first, first + count) of a row of a canonical array, with the bits of
/// `flipped` turned over in every integer, -> its lane.
inline void put_auxiliaries(Aux aux, std::uint32_t flipped, const std::vector<std::uint8_t>& array,
                            std::int64_t row_byte, std::int64_t first, std::int64_t count, std::int64_t lane,
                            std::uint8_t* lines) noexcept {
  const int n = bits_of(aux);
  const std::uint8_t* from = array.data() + row_byte;
  const std::int64_t per_line = groups_per_line(aux);
  if (is_integer(aux)) {
    std::uint64_t flips = 0;
    for (std::int64_t g = 0; g < per_line; ++g) flips |= std::uint64_t{flipped} << g * n;
    for (std::int64_t g = 0; g < count; g += per_line) {
      // A lane's word of a line is so many bits of the stream. Eight bytes from the first one on hold them.
      const std::int64_t bit = (first + g) * n;
      const int bits = static_cast<int>(std::min(per_line, count - g)) * n;
      const bool whole = row_byte + bit / 8 + 8 <= std::ssize(array);
      const std::uint64_t word =
          whole ? get_word<std::uint64_t>(from + bit / 8) >> bit % 8 : get_entry(from, bit, bits);
      const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
      put_word<4>(lines + g / per_line * kLine + lane * 4, static_cast<std::uint32_t>((word ^ flips) & mask));
    }
  } else if (n == 16) {
    for (std::int64_t g = 0; g < count; ++g)
      put_word<2>(lines + (g * kStripRows + lane) * 2, get_word<std::uint16_t>(from + (first + g) * 2));
  } else if (n == 32) {
    for (std::int64_t g = 0; g < count; ++g)
      put_word<4>(lines + (g * kStripRows + lane) * 4, get_word<std::uint32_t>(from + (first + g) * 4));
  }
}

/// One strip, every byte of it.
template <int kBits>
void pack_strip(const QuantizedMatrix& q, const StripOrder& o, std::int64_t s, std::uint8_t* strip) noexcept {
  const Extents e = extents(q.format, o.tiling);
  const std::int64_t first = o.first_row(s);
  const std::int64_t rows = o.rows(s);
  std::memset(strip, 0, static_cast<std::size_t>(rows < kStripRows ? o.strip : o.head));
  for (std::int64_t lane = 0; lane < rows && o.head > 0; ++lane)
    put_auxiliaries(Aux::f16, 0, q.coarse_scale, (first + lane) * e.coarse_row, 0, coarse_per_row(q.format, o.tiling),
                    lane, strip);
  for (std::int64_t b = 0; b < o.blocks; ++b) {
    const std::int64_t group = b * o.block;
    std::memset(strip + o.scales(b), 0, static_cast<std::size_t>(o.scale_bytes + o.zero_bytes));
    // Of the next block: a store waits for its line, and those behind it wait as well; and sixteen rows in turn are
    // more streams than hardware follows.
    for (std::int64_t at = 0; at < o.block_bytes; at += kLine)
      __builtin_prefetch(strip + o.scales(b) + o.block_bytes + at, 1);
    for (std::int64_t lane = 0; lane < rows; ++lane) {
      const std::int64_t row = first + lane;
      put_auxiliaries(o.scale, scale_flip(q.format), q.scale, row * e.scale_row, group, o.block_groups(b), lane,
                      strip + o.scales(b));
      put_auxiliaries(o.zero, 0, q.zero, row * e.zero_row, group, o.block_groups(b), lane, strip + o.zeros(b));
      const std::uint8_t* next = q.codes.data() + row * e.code_row + o.block_begin(b + 1) * kBits / 8;
      for (std::int64_t at = 0; at < o.block_bytes / kStripRows; at += kLine) __builtin_prefetch(next + at);
    }
    std::int64_t lane = 0;
    const std::uint8_t* codes = q.codes.data() + first * e.code_row + o.block_begin(b) * kBits / 8;
    std::uint8_t* const units = strip + o.codes(b);
    for (; lane + 4 <= rows; lane += 4, codes += 4 * e.code_row)
      put_codes_of_four<kBits>(codes, e.code_row, o.block_cols(b), units + lane * 4);
    for (; lane < rows; ++lane, codes += e.code_row) put_codes<kBits>(codes, o.block_cols(b), units + lane * 4);
  }
}

}  // namespace detail::pack

inline void PackedMatrix::fill(const QuantizedMatrix& q, Executor* executor) {
  SerialExecutor serial;
  (executor ? *executor : serial).run(order_.strips, [&](std::int64_t s, int) {
    detail::core::with_code_bits(q.format.bits,
                                 [&](auto bits) { detail::pack::pack_strip<bits()>(q, order_, s, strip(s)); });
  });
}

/// Checks `q` (InvalidArgument, see `validate`) and brings it into kernel order, strip by strip on the executor.
[[nodiscard]] inline PackedMatrix pack(const QuantizedMatrix& q, Executor* executor = nullptr) {
  validate(q);
  PackedMatrix p(q);
  p.fill(q, executor);
  return p;
}

/// Bytes of memory that a packed matrix of the given format and size takes, at 64 bytes' alignment: codes and all
/// auxiliaries but the column scales, which lie apart. InvalidArgument unless format and size are legal.
[[nodiscard]] inline std::size_t packed_bytes(const Format& format, std::int64_t rows, std::int64_t cols) {
  detail::pack::validate(format);
  const detail::pack::StripOrder o(format, tiling(rows, cols, format.group_size, format.tile));
  return static_cast<std::size_t>(o.strips * o.strip);
}

/// The same in memory that the caller owns, and keeps as it is while the matrix or a copy of it is in use:
/// `packed_bytes` at an alignment of 64.
[[nodiscard]] inline PackedMatrix pack(const QuantizedMatrix& q, std::span<std::byte> memory,
                                       Executor* executor = nullptr) {
  using detail::core::require;
  validate(q);
  const std::size_t needed = packed_bytes(q.format, q.rows, q.cols);
  require(memory.data() != nullptr, "memory.data()", "null", "must not be null");
  require(memory.size() >= needed, "memory.size()", memory.size(), "must be at least ", needed, ", see packed_bytes");
  require(reinterpret_cast<std::uintptr_t>(memory.data()) % detail::pack::kLine == 0, "memory.data()",
          static_cast<const void*>(memory.data()), "must be a multiple of ", detail::pack::kLine);
  PackedMatrix p(q, memory.data());
  p.fill(q, executor);
  return p;
}

namespace detail::pack {

/// A matrix without what strips hold: rows [first, first + count) of a packed one, beginning with a panel where there
/// are several.
[[nodiscard]] inline QuantizedMatrix frame_of(const PackedMatrix& p, std::int64_t first, std::int64_t count) {
  QuantizedMatrix q;
  q.format = p.format();
  q.rows = count;
  q.cols = p.cols();
  q.table = StripAccess::table(p);
  const Tiling t = q.tiling();
  const std::int64_t panel = extents(q.format, t).col_row;
  const std::uint8_t* const from = StripAccess::col_scale(p) + StripAccess::order(p).tiling.panel_of(first) * panel;
  q.col_scale.assign(from, from + t.panels() * panel);
  return q;
}

/// Row i of a packed matrix -> row `to` of a canonical one, whose arrays are zero.
template <int kBits>
void unpack_row(const PackedMatrix& p, std::int64_t i, const Extents& e, QuantizedMatrix& q, std::int64_t to) noexcept {
  const StripOrder& o = StripAccess::order(p);
  const std::uint8_t* const strip = StripAccess::strip(p, o.strip_of(i));
  const std::int64_t lane = o.lane_of(i);
  const auto entries = [&](Aux aux, std::uint32_t flipped, std::int64_t count, std::uint8_t* stream, auto bit) {
    for (std::int64_t k = 0; k < count; ++k)
      put_entry(stream, k * bits_of(aux), bits_of(aux), get_entry(strip, bit(k), bits_of(aux)) ^ flipped);
  };
  entries(Aux::f16, 0, coarse_per_row(q.format, o.tiling), q.coarse_scale.data() + to * e.coarse_row,
          [&](std::int64_t k) { return aux_bit(Aux::f16, k, lane); });
  entries(o.scale, scale_flip(q.format), o.tiling.groups(), q.scale.data() + to * e.scale_row,
          [&](std::int64_t g) { return 8 * o.scales(g / o.block) + aux_bit(o.scale, g % o.block, lane); });
  entries(o.zero, 0, o.zero == Aux::none ? 0 : o.tiling.groups(), q.zero.data() + to * e.zero_row,
          [&](std::int64_t g) { return 8 * o.zeros(g / o.block) + aux_bit(o.zero, g % o.block, lane); });
  for (std::int64_t b = 0; b < o.blocks; ++b)
    get_codes<kBits>(strip + o.codes(b) + lane * 4, o.block_cols(b),
                     q.codes.data() + to * e.code_row + o.block_begin(b) * kBits / 8);
}

/// The canonical form of rows [first, first + count), strip by strip on the executor.
[[nodiscard]] inline QuantizedMatrix unpack_rows(const PackedMatrix& p, std::int64_t first, std::int64_t count,
                                                 Executor* executor) {
  const StripOrder& o = StripAccess::order(p);
  QuantizedMatrix q = make_quantized_matrix(p.format(), count, p.cols());
  QuantizedMatrix frame = frame_of(p, first, count);
  q.table = frame.table;
  q.col_scale = std::move(frame.col_scale);
  const Extents e = extents(q.format, q.tiling());
  const std::int64_t begin = o.strip_of(first);
  SerialExecutor serial;
  (executor ? *executor : serial).run(o.strip_of(first + count - 1) + 1 - begin, [&](std::int64_t k, int) {
    const std::int64_t s = begin + k;
    const std::int64_t end = std::min(o.first_row(s) + o.rows(s), first + count);
    core::with_code_bits(q.format.bits, [&](auto bits) {
      for (std::int64_t i = std::max(o.first_row(s), first); i < end; ++i) unpack_row<bits()>(p, i, e, q, i - first);
    });
  });
  return q;
}

}  // namespace detail::pack

/// The canonical form, bit for bit as it was packed, strip by strip on the executor.
[[nodiscard]] inline QuantizedMatrix unpack(const PackedMatrix& p, Executor* executor = nullptr) {
  detail::pack::require_packed(p, "p");
  return detail::pack::unpack_rows(p, 0, p.rows(), executor);
}

}  // namespace sinq::inline SINQ_ABI
