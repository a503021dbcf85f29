// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "rounding.hpp"

// Scales and zeros -> their stored form. Codes are chosen afterwards, against what a reader will see, so that the error
// of a coarse auxiliary is rounded away as far as the codes allow.

namespace sinq::inline SINQ_ABI::detail::quantize {

/// Whether a float auxiliary keeps a scale's precision: f16 has its 11 bits from 2^-14 to 65504, bf16 its 8 bits from
/// 2^-126 to just below 2^128. A scale outside loses precision, vanishes or becomes infinite: the matrix then stores
/// its scales as f32.
[[nodiscard]] inline bool fits(Aux aux, float scale) noexcept {
  const float size = std::abs(scale);
  if (aux == Aux::f16) return size >= 0x1p-14f && size <= 65504.0f;
  if (aux == Aux::bf16) return size >= 0x1p-126f && size <= 0x1.fep127f;
  return true;
}

/// What is stored as the scale of a group of zeros (0 until here): exact in every type, and not 0, since codes are
/// chosen by dividing by it.
inline constexpr float kScaleOfZeros = 0x1p-14f;

/// Beyond it, a zero follows its scale (follow_scales).
[[nodiscard]] inline float far_zero(const Format& f) noexcept {
  return is_integer(f.scale) && is_float(f.zero) ? 2 * core::level_span(f.levels, f.bits).width : INFINITY;
}

/// The smallest f16 that is at least `value` (value >= 0): rounding a coarse scale up never clips its largest group.
[[nodiscard]] inline float round_up_f16(float value) noexcept {
  const half nearest(value);
  if (static_cast<float>(nearest) >= value) return static_cast<float>(nearest);
  return static_cast<float>(Eigen::numext::bit_cast<half>(static_cast<std::uint16_t>(nearest.x + 1)));
}

// Coarse scales (in f16) are not below kLeastCoarse: rows of smaller weights, dead neurons or unused words of a
// vocabulary, get that one instead of stopping a whole model or changing its format. Their scales are off by at most
// 2^-24 / 2^n, n the bits of an integer scale without its sign (3 to 8), and each weight by that times the span of the
// levels (2^bits, 256 in a table, 2 of NF4 and NF3), beside what it loses to its bits anyway: by
//
//   2^-19 col_scale                       with 256 levels and scales of 3 bits and a sign; in preset(4.5) 2^-21
//
// at most. (A fit forgets weights so small that the square of an error beside them overflows: they become 0.)

/// Refuses a coarse scale that is too large. `wanted`: before it was rounded.
inline void require_coarse(float coarse, float wanted, std::int64_t row) {
  if (!core::is_finite(coarse))
    core::raise<InvalidArgument>(
        core::text("sinq: row ", row, " has a coarse scale of ", wanted, ": f16 holds up to 65504, use scale = f32"));
}

/// Whether a coarse scale is the least, and may have been wanted smaller.
[[nodiscard]] inline bool has_least_coarse(const QuantizedMatrix& q) noexcept {
  const auto* coarse = q.coarse_scale.data();
  for (std::size_t k = 0; k < q.coarse_scale.size() / sizeof(half); ++k)
    if (static_cast<float>(core::load_unaligned<half>(coarse, static_cast<std::int64_t>(k))) == kLeastCoarse)
      return true;
  return false;
}

/// Writes the scales of row i.
inline void encode_scales(QuantizedMatrix& q, const pack::Extents& e, std::int64_t i, std::span<const float> scales) {
  const Aux aux = q.format.scale;
  std::uint8_t* row = q.scale.data() + i * e.scale_row;
  const auto groups = static_cast<std::int64_t>(scales.size());
  if (is_float(aux)) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const float scale = scales[static_cast<std::size_t>(g)];
      pack::write_float(aux, row, g, scale == 0 ? kScaleOfZeros : scale);
    }
    return;
  }
  // Integers: the largest of the scales below one coarse scale meets the largest integer. A group that is not lost
  // keeps at least 1.
  const int n = bits_of(aux) - (q.format.signed_scale ? 1 : 0);
  const auto most = static_cast<float>((1 << n) - 1);
  const auto unit = static_cast<float>(1 << n);
  const std::int64_t per_coarse = q.format.coarse_groups == 0 ? groups : q.format.coarse_groups;
  std::vector<std::uint8_t> integers(scales.size());
  for (std::int64_t first = 0; first < groups; first += per_coarse) {
    const auto part =
        scales.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(std::min(per_coarse, groups - first)));
    float largest = 0;
    for (float s : part) largest = std::max(largest, std::abs(s));
    if (largest == 0) largest = kScaleOfZeros;
    const float wanted = largest / most * unit;
    const float coarse = std::max(round_up_f16(wanted), kLeastCoarse);
    require_coarse(coarse, wanted, i);
    pack::write_float(Aux::f16, q.coarse_scale.data() + i * e.coarse_row, first / per_coarse, coarse);
    for (std::size_t k = 0; k < part.size(); ++k) {
      const float m = std::clamp(std::nearbyint(std::abs(part[k]) / coarse * unit), 1.0f, most);
      integers[static_cast<std::size_t>(first) + k] =
          static_cast<std::uint8_t>(static_cast<int>(part[k] < 0 ? -m : m) & ((1 << bits_of(aux)) - 1));
    }
  }
  pack::write_codes(bits_of(aux), row, 0, groups, integers.data());
}

/// A zero far beyond the levels stands for what all weights have in common, -zero scale. When an integer scale is
/// stored as another one, codes cannot make up for that there; the zero can.
inline void follow_scales(const Format& f, std::span<const float> wanted, std::span<const float> stored,
                          std::span<float> zeros) {
  const float far = far_zero(f);
  for (std::size_t g = 0; g < zeros.size(); ++g)
    if (std::abs(zeros[g]) > far) zeros[g] = zeros[g] * (wanted[g] / stored[g]);
}

/// Writes the zeros of row i.
inline void encode_zeros(QuantizedMatrix& q, const pack::Extents& e, std::int64_t i, std::span<const float> zeros) {
  const Aux aux = q.format.zero;
  std::uint8_t* row = q.zero.data() + i * e.zero_row;
  const auto groups = static_cast<std::int64_t>(zeros.size());
  if (aux == Aux::none) return;
  if (is_float(aux)) {
    for (std::int64_t g = 0; g < groups; ++g) pack::write_float(aux, row, g, zeros[static_cast<std::size_t>(g)]);
    return;
  }
  const auto span = core::level_span(q.format.levels, q.format.bits);
  const float step = span.width / static_cast<float>(1 << bits_of(aux));
  const auto most = static_cast<float>((1 << bits_of(aux)) - 1);
  std::vector<std::uint8_t> integers(zeros.size());
  for (std::size_t g = 0; g < zeros.size(); ++g)
    integers[g] = static_cast<std::uint8_t>(std::clamp(std::nearbyint((zeros[g] - span.low) / step), 0.0f, most));
  pack::write_codes(bits_of(aux), row, 0, groups, integers.data());
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
