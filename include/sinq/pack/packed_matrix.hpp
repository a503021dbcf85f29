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
  std::vector<std::uint8_t> col_scale_;  // as in QuantizedMatrix
  std::vector<Line, detail::core::LargePages<Line>> lines_;
};

namespace detail::pack {

/// What kernels see of a PackedMatrix.
struct StripAccess {
  static const StripOrder& order(const PackedMatrix& p) noexcept { return p.order_; }
  static const LevelTable& table(const PackedMatrix& p) noexcept { return p.table_; }
  static const std::uint8_t* strip(const PackedMatrix& p, std::int64_t s) noexcept { return p.strip(s); }
  static const std::uint8_t* col_scale(const PackedMatrix& p) noexcept { return p.col_scale_.data(); }
};

/// Calls visit(aux, canonical array, bytes of its rows, entries of its rows, place) for scales, zeros and coarse
/// scales; place(strip, k) is where the sixteen entries number k of a strip lie.
template <class Matrix, class Visitor>
void for_auxiliaries(Matrix& q, const StripOrder& o, Visitor&& visit) {
  const Extents e = extents(q.format, o.tiling);
  const auto block = [](std::int64_t g) { return g / kBlockGroups; };
  visit(q.format.scale, q.scale, e.scale_row, o.tiling.groups(),
        [&](std::int64_t g) { return o.scales(block(g)) + g % kBlockGroups * o.scale; });
  if (q.format.zero != Aux::none)
    visit(q.format.zero, q.zero, e.zero_row, o.tiling.groups(),
          [&](std::int64_t g) { return o.zeros(block(g)) + g % kBlockGroups * o.zero; });
  if (is_integer(q.format.scale))
    visit(Aux::f16, q.coarse_scale, e.coarse_row, coarse_per_row(q.format, o.tiling),
          [&](std::int64_t k) { return k * aux_bytes(Aux::f16); });
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
    for (std::int64_t b = 0; b < o.blocks(); ++b)
      detail::core::with_bits(q.format.bits, [&](auto bits) {
        if constexpr (bits() != 7)
          put_codes<bits()>(row.data() + o.block_begin(b), lane, StripOrder::units(o.block_cols(b)),
                            strip + o.codes(b));
      });
    for_auxiliaries(q, o, [&](Aux aux, const auto& array, std::int64_t row_bytes, std::int64_t count, auto place) {
      for (std::int64_t k = 0; k < count; ++k)
        put_entry(strip + place(k), lane, bits_of(aux), get_entry(array.data() + i * row_bytes, k, bits_of(aux)));
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
    for (std::int64_t b = 0; b < o.blocks(); ++b)
      detail::core::with_bits(q.format.bits, [&](auto bits) {
        if constexpr (bits() != 7)
          get_codes<bits()>(strip + o.codes(b), lane, 0, o.block_cols(b), row.data() + o.block_begin(b));
      });
    write_codes(q.format.bits, q.codes.data() + i * e.code_row, 0, q.cols, row.data());
    for_auxiliaries(q, o, [&](Aux aux, auto& array, std::int64_t row_bytes, std::int64_t count, auto place) {
      for (std::int64_t k = 0; k < count; ++k)
        put_entry(array.data() + i * row_bytes, k, bits_of(aux), get_entry(strip + place(k), lane, bits_of(aux)));
    });
  }
  return q;
}

}  // namespace sinq::inline SINQ_ABI
