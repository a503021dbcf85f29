// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "packed_matrix.hpp"
#include "row_reader.hpp"

namespace sinq::inline SINQ_ABI::detail::pack {

/// Decodes a PackedMatrix row by row, the same values as RowReader gives. Holds a reference; may be shared between
/// threads.
class StripReader {
 public:
  explicit StripReader(const PackedMatrix& p) : p_(p), order_(StripAccess::order(p)) {
    for (int code = 0; code < 1 << p.format().bits; ++code)
      levels_[static_cast<std::size_t>(code)] =
          core::level(p.format().levels, p.format().bits, StripAccess::table(p), code);
  }

  [[nodiscard]] const Tiling& tiling() const noexcept { return order_.tiling; }
  [[nodiscard]] const Format& format() const noexcept { return p_.format(); }
  [[nodiscard]] const StripOrder& order() const noexcept { return order_; }
  [[nodiscard]] const std::uint8_t* strip(std::int64_t s) const noexcept { return StripAccess::strip(p_, s); }

  /// level(code) for every code.
  [[nodiscard]] const std::array<float, 256>& levels() const noexcept { return levels_; }

  /// Codes [first, first + count) of row i, one byte each. `first` is a multiple of 4.
  void codes(std::int64_t i, std::int64_t first, std::int64_t count, std::uint8_t* out) const noexcept {
    const std::int64_t block_cols = order_.block_begin(1);
    for (std::int64_t at = first; at < first + count;) {
      const std::int64_t b = at / block_cols;
      const std::int64_t n = std::min(first + count, (b + 1) * block_cols) - at;
      const std::uint8_t* units = row_strip(i) + order_.codes(b);
      core::with_bits(format().bits, [&](auto bits) {
        if constexpr (bits() != 7)
          get_codes<bits()>(units, order_.lane_of(i), at - order_.block_begin(b), n, out + (at - first));
      });
      at += n;
    }
  }

  /// All `groups` scales of row i.
  void scales(std::int64_t i, float* out) const noexcept {
    for (std::int64_t b = 0; b < order_.blocks(); ++b) block_scales(i, b, out + b * kBlockGroups);
  }

  /// All `groups` zeros of row i; 0 where the format has none.
  void zeros(std::int64_t i, float* out) const noexcept {
    for (std::int64_t b = 0; b < order_.blocks(); ++b) block_zeros(i, b, out + b * kBlockGroups);
  }

  /// The scales of row i in block b.
  void block_scales(std::int64_t i, std::int64_t b, float* out) const noexcept {
    const Format& f = format();
    const std::int64_t lane = order_.lane_of(i);
    const std::int64_t per_coarse = f.coarse_groups == 0 ? tiling().groups() : f.coarse_groups;
    const std::uint8_t* at = row_strip(i) + order_.scales(b);
    for (std::int64_t g = 0; g < order_.block_groups(b); ++g, at += order_.scale) {
      if (is_float(f.scale)) {
        read_floats(f.scale, at, lane, 1, out + g);
      } else {
        float coarse = 0;
        read_floats(Aux::f16, row_strip(i), (b * kBlockGroups + g) / per_coarse * kStripRows + lane, 1, &coarse);
        out[g] = coarse * scale_share(f.scale, f.signed_scale, static_cast<int>(get_entry(at, lane, bits_of(f.scale))));
      }
    }
  }

  /// The zeros of row i in block b; 0 where the format has none.
  void block_zeros(std::int64_t i, std::int64_t b, float* out) const noexcept {
    const Format& f = format();
    const std::int64_t lane = order_.lane_of(i);
    const std::uint8_t* at = row_strip(i) + order_.zeros(b);
    for (std::int64_t g = 0; g < order_.block_groups(b); ++g, at += order_.zero) {
      if (f.zero == Aux::none)
        out[g] = 0;
      else if (is_float(f.zero))
        read_floats(f.zero, at, lane, 1, out + g);
      else
        out[g] =
            zero_at(f.zero, core::level_span(f.levels, f.bits), static_cast<int>(get_entry(at, lane, bits_of(f.zero))));
    }
  }

  /// Column scales [first, first + count) of panel p; 1 where the format has none.
  void col_scales(std::int64_t p, std::int64_t first, std::int64_t count, float* out) const noexcept {
    read_col_scales(format(), tiling(), StripAccess::col_scale(p_), p, first, count, out);
  }

 private:
  [[nodiscard]] const std::uint8_t* row_strip(std::int64_t i) const noexcept { return strip(order_.strip_of(i)); }

  const PackedMatrix& p_;
  const StripOrder& order_;
  std::array<float, 256> levels_{};
};

}  // namespace sinq::inline SINQ_ABI::detail::pack
