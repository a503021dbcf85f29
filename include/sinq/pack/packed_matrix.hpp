// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "../core/large_pages.hpp"
#include "strip_order.hpp"

namespace sinq::inline SINQ_ABI {
namespace detail::pack {
struct StripAccess;
}

/// A quantized matrix in the order in which the kernels read it (pack/strip_order.hpp). Made once, at load, by `pack`;
/// constant from then on, so any number of threads may multiply by it at once.
class PackedMatrix {
 public:
  [[nodiscard]] std::int64_t rows() const noexcept { return order_.tiling.rows; }
  [[nodiscard]] std::int64_t cols() const noexcept { return order_.tiling.cols; }
  [[nodiscard]] const Format& format() const noexcept { return format_; }
  /// Bytes held in memory.
  [[nodiscard]] std::int64_t bytes() const noexcept {
    return static_cast<std::int64_t>(lines_.size() * sizeof(Line) + col_scale_.size()) +
           (format_.levels == Levels::table ? 1 << format_.bits : 0);
  }

 private:
  friend PackedMatrix pack(const QuantizedMatrix& q);
  friend QuantizedMatrix unpack(const PackedMatrix& p);
  friend detail::pack::StripAccess;

  struct alignas(detail::pack::kLine) Line {
    std::uint8_t bytes[detail::pack::kLine];
  };

  explicit PackedMatrix(const QuantizedMatrix& q)
      : format_(q.format), order_(q.format, q.tiling()), table_(q.table), col_scale_(q.col_scale) {
    for (int code = 0; code < 1 << format_.bits; ++code)
      levels_[static_cast<std::size_t>(code)] = detail::core::level(format_.levels, format_.bits, table_, code);
    lines_.resize(static_cast<std::size_t>(order_.strips * order_.strip / detail::pack::kLine));
  }

  [[nodiscard]] std::uint8_t* strip(std::int64_t s) noexcept {
    return reinterpret_cast<std::uint8_t*>(lines_.data()) + s * order_.strip;
  }
  [[nodiscard]] const std::uint8_t* strip(std::int64_t s) const noexcept {
    return reinterpret_cast<const std::uint8_t*>(lines_.data()) + s * order_.strip;
  }

  Format format_;
  detail::pack::StripOrder order_;
  LevelTable table_{};
  std::array<float, 256> levels_{};      // level(code) for every code
  std::vector<std::uint8_t> col_scale_;  // as in QuantizedMatrix
  std::vector<Line, detail::core::LargePages<Line>> lines_;
};

namespace detail::pack {

/// What kernels see of a PackedMatrix.
struct StripAccess {
  static const StripOrder& order(const PackedMatrix& p) noexcept { return p.order_; }
  static const LevelTable& table(const PackedMatrix& p) noexcept { return p.table_; }
  static const std::array<float, 256>& levels(const PackedMatrix& p) noexcept { return p.levels_; }
  static const std::uint8_t* strip(const PackedMatrix& p, std::int64_t s) noexcept { return p.strip(s); }
  static const std::uint8_t* col_scale(const PackedMatrix& p) noexcept { return p.col_scale_.data(); }
};

/// Calls visit(aux, canonical array, bytes of its rows, entries of its rows, bit) for scales, zeros and coarse scales;
/// bit(k, lane) is where entry k of a row lies in its strip.
template <class Matrix, class Visitor>
void for_auxiliaries(Matrix& q, const StripOrder& o, Visitor&& visit) {
  const Extents e = extents(q.format, o.tiling);
  visit(q.format.scale, q.scale, e.scale_row, o.tiling.groups(), [&](std::int64_t g, std::int64_t lane) {
    return 8 * o.scales(g / o.block) + aux_bit(o.scale, g % o.block, lane);
  });
  if (q.format.zero != Aux::none)
    visit(q.format.zero, q.zero, e.zero_row, o.tiling.groups(), [&](std::int64_t g, std::int64_t lane) {
      return 8 * o.zeros(g / o.block) + aux_bit(o.zero, g % o.block, lane);
    });
  if (is_integer(q.format.scale))
    visit(Aux::f16, q.coarse_scale, e.coarse_row, coarse_per_row(q.format, o.tiling),
          [&](std::int64_t k, std::int64_t lane) { return aux_bit(Aux::f16, k, lane); });
}

}  // namespace detail::pack

/// Checks `q` (InvalidArgument, see `validate`) and brings it into kernel order.
[[nodiscard]] inline PackedMatrix pack(const QuantizedMatrix& q) {
  using namespace detail::pack;
  validate(q);
  PackedMatrix p(q);
  const StripOrder& o = p.order_;
  const Extents e = extents(q.format, o.tiling);
  std::vector<std::uint8_t> row(static_cast<std::size_t>(StripOrder::units(o.tiling.cols) * kUnitCols));
  for (std::int64_t i = 0; i < q.rows; ++i) {
    std::uint8_t* const strip = p.strip(o.strip_of(i));
    const std::int64_t lane = o.lane_of(i);
    read_codes(q.format.bits, q.codes.data() + i * e.code_row, 0, q.cols, row.data());
    for (std::int64_t b = 0; b < o.blocks; ++b)
      detail::core::with_bits(q.format.bits, [&](auto bits) {
        if constexpr (bits() != 7)
          put_codes<bits()>(row.data() + o.block_begin(b), lane, StripOrder::units(o.block_cols(b)),
                            strip + o.codes(b));
      });
    for_auxiliaries(q, o, [&](Aux aux, const auto& array, std::int64_t row_bytes, std::int64_t count, auto bit) {
      const int n = bits_of(aux);
      for (std::int64_t k = 0; k < count; ++k)
        put_entry(strip, bit(k, lane), n, get_entry(array.data() + i * row_bytes, k * n, n));
    });
  }
  return p;
}

/// The canonical form, bit for bit as it was packed.
[[nodiscard]] inline QuantizedMatrix unpack(const PackedMatrix& p) {
  using namespace detail::pack;
  const StripOrder& o = p.order_;
  QuantizedMatrix q = make_quantized_matrix(p.format_, p.rows(), p.cols());
  q.table = p.table_;
  q.col_scale = p.col_scale_;
  const Extents e = extents(q.format, o.tiling);
  std::vector<std::uint8_t> row(static_cast<std::size_t>(q.cols));
  for (std::int64_t i = 0; i < q.rows; ++i) {
    const std::uint8_t* const strip = p.strip(o.strip_of(i));
    const std::int64_t lane = o.lane_of(i);
    for (std::int64_t b = 0; b < o.blocks; ++b)
      detail::core::with_bits(q.format.bits, [&](auto bits) {
        if constexpr (bits() != 7)
          get_codes<bits()>(strip + o.codes(b), lane, 0, o.block_cols(b), row.data() + o.block_begin(b));
      });
    write_codes(q.format.bits, q.codes.data() + i * e.code_row, 0, q.cols, row.data());
    for_auxiliaries(q, o, [&](Aux aux, auto& array, std::int64_t row_bytes, std::int64_t count, auto bit) {
      const int n = bits_of(aux);
      for (std::int64_t k = 0; k < count; ++k)
        put_entry(array.data() + i * row_bytes, k * n, n, get_entry(strip, bit(k, lane), n));
    });
  }
  return q;
}

}  // namespace sinq::inline SINQ_ABI
