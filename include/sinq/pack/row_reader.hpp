// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quantized_matrix.hpp"

namespace sinq::inline SINQ_ABI::detail::pack {

/// Column scales [first, first + count) of panel p; 1 where the format has none.
inline void read_col_scales(const Format& f, const Tiling& t, const std::uint8_t* array, std::int64_t p,
                            std::int64_t first, std::int64_t count, float* out) noexcept {
  if (f.col_scale == Aux::none) {
    for (std::int64_t j = 0; j < count; ++j) out[j] = 1;
  } else {
    read_floats(f.col_scale, array + p * stream_bytes(t.cols, bits_of(f.col_scale)), first, count, out);
  }
}

/// Decodes a valid QuantizedMatrix row by row. Holds a reference; costs nothing to make; may be shared between threads.
class RowReader {
 public:
  explicit RowReader(const QuantizedMatrix& q) : q_(q), tiling_(q.tiling()), extents_(extents(q.format, tiling_)) {
    for (int code = 0; code < 1 << q.format.bits; ++code)
      levels_[static_cast<std::size_t>(code)] = core::level(q.format.levels, q.format.bits, q.table, code);
  }

  [[nodiscard]] const Tiling& tiling() const noexcept { return tiling_; }
  [[nodiscard]] const Format& format() const noexcept { return q_.format; }

  /// level(code) for every code.
  [[nodiscard]] const std::array<float, 256>& levels() const noexcept { return levels_; }

  /// The bit stream of row i.
  [[nodiscard]] const std::uint8_t* code_stream(std::int64_t i) const noexcept {
    return q_.codes.data() + i * extents_.code_row;
  }

  /// Codes [first, first + count) of row i, one byte each. `first` is a multiple of 8.
  void codes(std::int64_t i, std::int64_t first, std::int64_t count, std::uint8_t* out) const noexcept {
    read_codes(q_.format.bits, code_stream(i), first, count, out);
  }

  /// Codes of group g of row i, one byte each.
  void codes(std::int64_t i, std::int64_t g, std::uint8_t* out) const noexcept {
    read_codes(q_.format.bits, code_stream(i), tiling_.group_begin(g), tiling_.group_cols(g), out);
  }

  /// All `groups` scales of row i.
  void scales(std::int64_t i, float* out) const noexcept {
    const Aux aux = q_.format.scale;
    const std::int64_t groups = tiling_.groups();
    const std::uint8_t* row = q_.scale.data() + i * extents_.scale_row;
    if (is_float(aux)) return read_floats(aux, row, 0, groups, out);
    const std::uint8_t* coarse_row = q_.coarse_scale.data() + i * extents_.coarse_row;
    const std::int64_t per_coarse = q_.format.coarse_groups == 0 ? groups : q_.format.coarse_groups;
    for_integers(aux, row, [&](std::int64_t g, int m) {
      float coarse = 0;
      read_floats(Aux::f16, coarse_row, g / per_coarse, 1, &coarse);
      out[g] = coarse * scale_share(aux, q_.format.signed_scale, m);
    });
  }

  /// All `groups` zeros of row i; 0 where the format has none.
  void zeros(std::int64_t i, float* out) const noexcept {
    const Aux aux = q_.format.zero;
    const std::uint8_t* row = q_.zero.data() + i * extents_.zero_row;
    if (aux == Aux::none) {
      for (std::int64_t g = 0; g < tiling_.groups(); ++g) out[g] = 0;
    } else if (is_float(aux)) {
      read_floats(aux, row, 0, tiling_.groups(), out);
    } else {
      const auto span = core::level_span(q_.format.levels, q_.format.bits);
      for_integers(aux, row, [&](std::int64_t g, int m) { out[g] = zero_at(aux, span, m); });
    }
  }

  /// Column scales [first, first + count) of panel p; 1 where the format has none.
  void col_scales(std::int64_t p, std::int64_t first, std::int64_t count, float* out) const noexcept {
    read_col_scales(q_.format, tiling_, q_.col_scale.data(), p, first, count, out);
  }

 private:
  /// Calls visit(g, m) for the integer auxiliary m of every group g of one row.
  template <class Visitor>
  void for_integers(Aux aux, const std::uint8_t* row, Visitor&& visit) const noexcept {
    std::uint8_t m[64];
    for (std::int64_t g = 0; g < tiling_.groups(); g += 64) {
      const std::int64_t count = std::min<std::int64_t>(64, tiling_.groups() - g);
      read_codes(bits_of(aux), row, g, count, m);
      for (std::int64_t k = 0; k < count; ++k) visit(g + k, m[k]);
    }
  }

  const QuantizedMatrix& q_;
  Tiling tiling_;
  Extents extents_;
  std::array<float, 256> levels_{};
};

}  // namespace sinq::inline SINQ_ABI::detail::pack
