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

/// The smallest f16 that is at least `value` (value >= 0): rounding a coarse scale up never clips its largest group.
[[nodiscard]] inline float round_up_f16(float value) noexcept {
  const half nearest(value);
  if (static_cast<float>(nearest) >= value) return static_cast<float>(nearest);
  return static_cast<float>(Eigen::numext::bit_cast<half>(static_cast<std::uint16_t>(nearest.x + 1)));
}

/// A coarse scale must be a number that f16 has: 5.96e-8 to 65504.
inline void require_coarse(float coarse, float largest_scale, std::int64_t row) {
  if (!core::is_finite(coarse) || largest_scale < 0x1p-24f)
    core::raise<InvalidArgument>(core::text("sinq: row ", row, " has a scale of ", largest_scale,
                                            ": beyond a coarse scale in f16 (5.96e-8 to 65504), use scale = f32"));
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
    const float coarse = round_up_f16(largest / most * unit);
    require_coarse(coarse, largest, i);
    pack::write_float(Aux::f16, q.coarse_scale.data() + i * e.coarse_row, first / per_coarse, coarse);
    for (std::size_t k = 0; k < part.size(); ++k) {
      const float m = std::clamp(std::nearbyint(std::abs(part[k]) / coarse * unit), 1.0f, most);
      integers[static_cast<std::size_t>(first) + k] =
          static_cast<std::uint8_t>(static_cast<int>(part[k] < 0 ? -m : m) & ((1 << bits_of(aux)) - 1));
    }
  }
  pack::write_codes(bits_of(aux), row, 0, groups, integers.data());
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
