// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "packed_matrix.hpp"
#include "row_reader.hpp"

namespace sinq::inline SINQ_ABI::detail::pack {

/// Decodes a PackedMatrix row by row, the same values as RowReader gives. Holds a reference; costs nothing to make; may
/// be shared between threads.
class StripReader {
 public:
  explicit StripReader(const PackedMatrix& p) noexcept : p_(p), order_(StripAccess::order(p)) {}

  [[nodiscard]] const Tiling& tiling() const noexcept { return order_.tiling; }
  [[nodiscard]] const Format& format() const noexcept { return p_.format(); }
  [[nodiscard]] const StripOrder& order() const noexcept { return order_; }
  [[nodiscard]] const std::uint8_t* strip(std::int64_t s) const noexcept { return StripAccess::strip(p_, s); }

  /// level(code) for every code.
  [[nodiscard]] const std::array<float, 256>& levels() const noexcept { return StripAccess::levels(p_); }

  /// Codes [first, first + count) of row i, one byte each.
  void codes(std::int64_t i, std::int64_t first, std::int64_t count, std::uint8_t* out) const noexcept {
    const std::int64_t block_cols = order_.block_begin(1);
    for (std::int64_t at = first; at < first + count;) {
      const std::int64_t b = at / block_cols;
      const std::int64_t n = std::min(first + count, (b + 1) * block_cols) - at;
      const std::uint8_t* lane = row_strip(i) + order_.codes(b) + order_.lane_of(i) * 4;
      core::with_code_bits(format().bits, [&](auto bits) {
        read_unit_codes<bits()>(lane, at - order_.block_begin(b), n, out + (at - first));
      });
      at += n;
    }
  }

  /// Scales of row i and groups [first, first + count).
  void scales(std::int64_t i, std::int64_t first, std::int64_t count, float* out) const noexcept {
    const Format& f = format();
    const std::int64_t per_coarse = f.coarse_groups == 0 ? tiling().groups() : f.coarse_groups;
    for (std::int64_t g = first; g < first + count; ++g, ++out) {
      const std::uint32_t m = entry(f.scale, order_.scales(g / order_.block), i, g);
      if (is_float(f.scale)) {
        *out = float_of(f.scale, m);
        continue;
      }
      const std::int64_t lane = order_.lane_of(i);
      const float coarse = float_of(Aux::f16, get_entry(row_strip(i), aux_bit(Aux::f16, g / per_coarse, lane), 16));
      *out = coarse * scale_share(f.scale, f.signed_scale, static_cast<int>(m ^ scale_flip(f)));
    }
  }

  /// Zeros of row i and groups [first, first + count); 0 where the format has none.
  void zeros(std::int64_t i, std::int64_t first, std::int64_t count, float* out) const noexcept {
    const Format& f = format();
    const auto span = core::level_span(f.levels, f.bits);
    for (std::int64_t g = first; g < first + count; ++g, ++out) {
      *out = 0;
      if (f.zero == Aux::none) continue;
      const std::uint32_t m = entry(f.zero, order_.zeros(g / order_.block), i, g);
      *out = is_float(f.zero) ? float_of(f.zero, m) : zero_at(f.zero, span, static_cast<int>(m));
    }
  }

  /// The column scales of panel p as they are stored.
  [[nodiscard]] const std::uint8_t* col_scale_row(std::int64_t p) const noexcept {
    return StripAccess::col_scale(p_) + p * stream_bytes(tiling().cols, bits_of(format().col_scale));
  }

  /// Column scales [first, first + count) of panel p; 1 where the format has none.
  void col_scales(std::int64_t p, std::int64_t first, std::int64_t count, float* out) const noexcept {
    read_col_scales(format(), tiling(), StripAccess::col_scale(p_), p, first, count, out);
  }

 private:
  [[nodiscard]] const std::uint8_t* row_strip(std::int64_t i) const noexcept { return strip(order_.strip_of(i)); }

  /// The auxiliary of row i and group g, as stored, in the lines that begin at `lines` of the strip.
  [[nodiscard]] std::uint32_t entry(Aux aux, std::int64_t lines, std::int64_t i, std::int64_t g) const noexcept {
    return get_entry(row_strip(i) + lines, aux_bit(aux, g % order_.block, order_.lane_of(i)), bits_of(aux));
  }

  [[nodiscard]] static float float_of(Aux aux, std::uint32_t bits) noexcept {
    float value = 0;
    read_floats(aux, reinterpret_cast<const std::uint8_t*>(&bits), 0, 1, &value);
    return value;
  }

  const PackedMatrix& p_;
  const StripOrder& order_;
};

}  // namespace sinq::inline SINQ_ABI::detail::pack
