// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "config.hpp"

// From the weights of one group (in the balanced domain, x = w / (col_scale row)) to a scale and a zero, and from those
// to codes:  x ~= (level(code) - zero) * scale.
//
// Nothing here adds a product to something: what decides a code must not depend on whether a compiler fuses the two.

namespace sinq::inline SINQ_ABI::detail::quantize {

struct ScaleZero {
  float scale;
  float zero;
};

/// The largest |zero| that a float zero may have, and the reason why a group far from 0 gets a coarser scale: integers
/// beyond are not exact in the type that stores them (or overflow it). An integer zero lies within the span of the
/// levels instead.
[[nodiscard]] inline float largest_zero(Aux aux) noexcept {
  return aux == Aux::f16 ? 2048.0f : aux == Aux::bf16 ? 256.0f : 16777216.0f;
}

/// The smallest step between levels: subnormal weights are whole multiples of it.
inline constexpr float kLeastScale = std::numeric_limits<float>::denorm_min();

// A group of zeros gets scale 0 and zero 0 here, and any scale when it is stored (encode.hpp). A constant group that is
// not zero gets the value itself as its step. (The reference gives both a range of 1e-4, and widens every narrower
// range to it as well, which flattens matrices of small weights.)

/// Uniform rounding between minimum and maximum (reference: quantize_rtn).
[[nodiscard]] inline ScaleZero min_max(std::span<const float> x, int bits, Aux zero_aux) noexcept {
  float low = *std::min_element(x.begin(), x.end());
  float high = *std::max_element(x.begin(), x.end());
  if (is_integer(zero_aux)) {  // the zero must be a code: the range takes in 0
    low = std::min(low, 0.0f);
    high = std::max(high, 0.0f);
  }
  if (low == 0 && high == 0) return {0.0f, 0.0f};
  const auto steps = static_cast<float>((1 << bits) - 1);
  float scale = std::max(high > low ? (high - low) / steps : std::abs(low), kLeastScale);
  if (is_float(zero_aux)) scale = std::max(scale, std::max(std::abs(low), std::abs(high)) / largest_zero(zero_aux));
  return {scale, -std::nearbyint(low / scale)};
}

/// Symmetric rounding: the weight of largest magnitude meets the outermost level below zero, -2^(bits-1), so that all
/// levels are used; the scale carries the sign. (The reference spends 13 of 16 levels at 4 bits.)
[[nodiscard]] inline ScaleZero symmetric(std::span<const float> x, int bits) noexcept {
  float extreme = 0;
  for (float v : x)
    if (std::abs(v) > std::abs(extreme)) extreme = v;
  const auto levels = static_cast<float>(1 << (bits - 1));
  if (extreme == 0) return {0.0f, 0.0f};
  return {std::copysign(std::max(std::abs(extreme) / levels, kLeastScale), -extreme), 0.0f};
}

/// NormalFloat with mean shift (reference: quantize_rtn, mode nf4 / nf3): levels around the mean, the farthest weight
/// meets -1 or 1. The mean is taken in double.
[[nodiscard]] inline ScaleZero mean_shift(std::span<const float> x, Aux zero_aux) noexcept {
  double sum = 0;
  for (float v : x) sum += double{v};
  const auto mean = static_cast<float>(sum / static_cast<double>(x.size()));
  float reach = 0;
  for (float v : x) reach = std::max(reach, std::abs(v - mean));
  if (reach == 0) reach = std::abs(mean);
  if (reach == 0) return {0.0f, 0.0f};
  if (is_integer(zero_aux)) {  // the zero lies in [-1, 1): the mean must not be farther out than the reach
    reach = std::max(reach, std::abs(mean));
  } else {
    reach = std::max(reach, std::abs(mean) / largest_zero(zero_aux));
  }
  return {reach, -mean / reach};
}

/// First choice of scale and zero for one group.
[[nodiscard]] inline ScaleZero first_choice(Rounding rounding, std::span<const float> x, int bits,
                                            Aux zero_aux) noexcept {
  switch (rounding) {
    case Rounding::uniform:
      return min_max(x, bits, zero_aux);
    case Rounding::symmetric:
      return symmetric(x, bits);
    default:
      return mean_shift(x, zero_aux);
  }
}

/// Codes of a group: the level nearest to x / scale + zero; ties go to the even code of uniform levels and to the lower
/// level of a codebook. `scale` is not 0.
class Coder {
 public:
  explicit Coder(const Format& f, const LevelTable& table = {}) : uniform_(f.levels <= Levels::symmetric) {
    const auto span = core::level_span(f.levels, f.bits);
    const int last = (1 << f.bits) - 1;
    offset_ = span.low;
    last_ = static_cast<float>(last);
    if (uniform_) return;
    for (int code = 0; code < last; ++code) {
      const float level = core::level(f.levels, f.bits, table, code);
      const float next = core::level(f.levels, f.bits, table, code + 1);
      middle_[static_cast<std::size_t>(code)] = level / 2 + next / 2;
    }
    std::fill(middle_.begin() + last, middle_.end(), INFINITY);
  }

  void encode(std::span<const float> x, ScaleZero a, std::uint8_t* codes) const noexcept {
    for (std::size_t j = 0; j < x.size(); ++j) {
      const float position = x[j] / a.scale + a.zero;
      if (uniform_) {
        codes[j] = static_cast<std::uint8_t>(std::clamp(std::nearbyint(position) - offset_, 0.0f, last_));
      } else {
        int code = 0;
        for (float middle : middle_) code += position > middle;
        codes[j] = static_cast<std::uint8_t>(code);
      }
    }
  }

 private:
  bool uniform_;
  float offset_ = 0;                // level of code 0
  float last_ = 0;                  // highest code
  std::array<float, 16> middle_{};  // boundaries between neighbouring levels of a codebook
};

}  // namespace sinq::inline SINQ_ABI::detail::quantize
