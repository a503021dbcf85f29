// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "../core/two_lanes.hpp"
#include "config.hpp"
#include "rules.hpp"

// From the weights of one group (in the balanced domain, x = w / (col_scale row)) to a scale and a zero, with which
// codes (coder.hpp) restore it:  x ~= (level(code) - zero) * scale.
//
// Nothing here adds a product to something: what decides a code must not depend on whether a compiler fuses the two.

namespace sinq::inline SINQ_ABI::detail::quantize {

/// Rows of a panel that a fit and the error feedback take together, a lane each.
inline constexpr std::int64_t kStrip = core::kLanes;

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

/// Of the weights of a group.
struct Range {
  float low;
  float high;
  float mean;
};

struct Multiply {
  /// x[j] *= factor[j] factor_of_row
  template <int kWidth>
  [[gnu::always_inline]] static void run(float* x, const float* factor, float factor_of_row,
                                         std::int64_t count) noexcept {
    using Float = core::Lanes<kWidth>;
    std::int64_t j = 0;
    for (; j + kWidth <= count; j += kWidth)
      (Float::load(x + j) * Float::load(factor + j) * factor_of_row).store(x + j);
    for (; j < count; ++j) x[j] = x[j] * factor[j] * factor_of_row;
  }
};

struct RangesOf {
  /// Of x[i * stride + j] factor[j] in every row i. The mean is summed in float over blocks of 256, and the blocks in
  /// double.
  template <int kWidth>
  [[gnu::always_inline]] static void run(const float* x, std::int64_t stride, std::int64_t cols, const float* factor,
                                         std::span<Range> rows) noexcept {
    for (Range& row : rows) {
      row = of_row<kWidth>(x, cols, factor);
      x += stride;
    }
  }

 private:
  template <int kWidth>
  [[gnu::always_inline]] static Range of_row(const float* x, std::int64_t cols, const float* factor) noexcept {
    using Sixteen = core::ManyLanes<kWidth, 16>;
    Sixteen low = INFINITY;
    Sixteen high = -INFINITY;
    double sum = 0;
    std::int64_t j = 0;
    while (j + core::kLanes <= cols) {
      Sixteen part;
      for (const std::int64_t end = std::min(j + 256, cols - cols % core::kLanes); j < end; j += core::kLanes) {
        const Sixteen v = Sixteen::load(x + j);
        const Sixteen f = Sixteen::load(factor + j);
        low = min(low, v * f);
        high = max(high, v * f);
        part = mul_add(v, f, part);
      }
      sum += double{part.fold(core::Plus{})};
    }
    Range r{low.fold(core::Least{}), high.fold(core::Most{}), 0};
    for (; j < cols; ++j) {
      const float v = x[j] * factor[j];
      r.low = std::min(r.low, v);
      r.high = std::max(r.high, v);
      sum += double{v};
    }
    r.mean = static_cast<float>(sum / static_cast<double>(cols));
    return r;
  }
};

/// Uniform rounding between minimum and maximum (reference: quantize_rtn).
[[nodiscard]] inline ScaleZero min_max(const Range& x, int bits, Aux zero_aux) noexcept {
  float low = x.low;
  float high = x.high;
  if (is_integer(zero_aux)) {  // the zero must be a code: the range takes in 0
    low = std::min(low, 0.0f);
    high = std::max(high, 0.0f);
  }
  if (low == 0 && high == 0) return {0.0f, 0.0f};
  const auto steps = static_cast<float>((1 << bits) - 1);
  float scale = std::max(high > low ? (high - low) / steps : std::abs(low), kLeastScale);
  if (is_float(zero_aux)) scale = std::max(scale, std::max(std::abs(low), std::abs(high)) / largest_zero(zero_aux));
  return {scale, 0.0f - std::nearbyint(low / scale)};  // never -0: its sign would depend on the order of zeros
}

/// Symmetric rounding: the weight of largest magnitude meets the outermost level below zero, -2^(bits-1), so that all
/// levels are used; the scale carries the sign. (The reference spends 13 of 16 levels at 4 bits.)
[[nodiscard]] inline ScaleZero symmetric(const Range& x, int bits) noexcept {
  const float extreme = -x.low > x.high ? x.low : x.high;
  const auto levels = static_cast<float>(1 << (bits - 1));
  if (extreme == 0) return {0.0f, 0.0f};
  return {std::copysign(std::max(std::abs(extreme) / levels, kLeastScale), -extreme), 0.0f};
}

/// NormalFloat with mean shift (reference: quantize_rtn, mode nf4 / nf3): levels around the mean, the farthest weight
/// meets -1 or 1.
[[nodiscard]] inline ScaleZero mean_shift(const Range& x, Aux zero_aux) noexcept {
  const float mean = x.mean;
  float reach = std::max({0.0f, x.high - mean, mean - x.low});
  if (reach == 0) reach = std::abs(mean);
  if (reach == 0) return {0.0f, 0.0f};
  if (is_integer(zero_aux)) {  // the zero lies in [-1, 1): the mean must not be farther out than the reach
    reach = std::max(reach, std::abs(mean));
  } else {
    reach = std::max(reach, std::abs(mean) / largest_zero(zero_aux));
  }
  return {reach, 0.0f - mean / reach};
}

/// First choice of scale and zero for one group.
[[nodiscard]] inline ScaleZero first_choice(Rounding rounding, const Range& x, int bits, Aux zero_aux) noexcept {
  switch (rounding) {
    case Rounding::uniform:
      return min_max(x, bits, zero_aux);
    case Rounding::symmetric:
      return symmetric(x, bits);
    default:
      return mean_shift(x, zero_aux);
  }
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
