// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "config.hpp"
#include "level_bytes.hpp"
#include "rules.hpp"

// From the weights of one group (in the balanced domain, x = w / (col_scale row)) to a scale and a zero, and from those
// to codes:  x ~= (level(code) - zero) * scale.
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

struct RangeOf {
  /// Of x[j] factor[j]. The mean is summed in float over blocks of 256, and the blocks in double.
  template <int kWidth>
  [[gnu::always_inline]] static Range run(const float* x, const float* factor, std::int64_t count) noexcept {
    using Float = core::Lanes<kWidth>;
    core::SixteenLanes<kWidth> low;
    core::SixteenLanes<kWidth> high;
    low.fill(INFINITY);
    high.fill(-INFINITY);
    double sum = 0;
    std::int64_t j = 0;
    while (j + core::kLanes <= count) {
      core::SixteenLanes<kWidth> part;
      for (const std::int64_t end = std::min(j + 256, count - count % core::kLanes); j < end; j += core::kLanes) {
        for (std::size_t k = 0; k < part.size(); ++k) {
          const auto at = j + static_cast<std::int64_t>(k) * kWidth;
          const Float v = Float::load(x + at);
          const Float f = Float::load(factor + at);
          low[k] = min(low[k], v * f);
          high[k] = max(high[k], v * f);
          part[k] = mul_add(v, f, part[k]);
        }
      }
      sum += double{core::fold<kWidth>(part, core::Plus{})};
    }
    Range r{core::fold<kWidth>(low, core::Least{}), core::fold<kWidth>(high, core::Most{}), 0};
    for (; j < count; ++j) {
      const float v = x[j] * factor[j];
      r.low = std::min(r.low, v);
      r.high = std::max(r.high, v);
      sum += double{v};
    }
    r.mean = static_cast<float>(sum / static_cast<double>(count));
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

/// Codes of a row: the level nearest to x / scale + zero; ties go to the even code of uniform levels and to the lower
/// level of a codebook. No scale is 0.
class Coder {
 public:
  explicit Coder(const Format& f, const LevelTable& table = {})
      : group_size_(f.group_size),
        uniform_(f.levels <= Levels::symmetric),
        last_((std::size_t{1} << f.bits) - 1),
        high_(core::level(f.levels, f.bits, table, static_cast<int>(last_))) {
    for (std::size_t code = 0; code <= (uniform_ ? 0 : last_); ++code)
      level_[code] = core::level(f.levels, f.bits, table, static_cast<int>(code));
    for (std::size_t code = 0; !uniform_ && code < last_; ++code)
      middle_[code] = level_[code] / 2 + level_[code + 1] / 2;
    if (!uniform_) bytes_ = LevelBytes(level_.data(), middle_.data(), static_cast<int>(last_) + 1);
  }

  /// `scales` and `zeros` hold one per group; `x` and `codes` have room for padded(cols), and what is behind the row
  /// in `x` is finite. `restored`, if given, receives (level - zero) scale.
  void encode(const float* x, std::int64_t cols, const float* scales, const float* zeros, std::uint8_t* codes,
              float* restored = nullptr) const noexcept {
    core::on_isa<Coder>(*this, x, cols, scales, zeros, codes, restored);
  }

  template <int kWidth>
  [[gnu::always_inline]] void nearest(const core::Lanes<kWidth>& position, core::Lanes<kWidth>& code,
                                      core::Lanes<kWidth>& level) const noexcept {
    using Float = core::Lanes<kWidth>;
    if (uniform_) {
      level = round(clamp(position, level_[0], high_));
      code = level - level_[0];
      return;
    }
    switch (last_) {
      case 15:
        level = Float::template nearest_level<16>(position, middle_.data(), level_.data(), code);
        return;
      case 7:
        level = Float::template nearest_level<8>(position, middle_.data(), level_.data(), code);
        return;
      default:
        level = Float::template nearest_level<4>(position, middle_.data(), level_.data(), code);
    }
  }

  template <int kWidth>
  [[gnu::always_inline]] static void run(const Coder& c, const float* x, std::int64_t cols, const float* scales,
                                         const float* zeros, std::uint8_t* codes, float* restored) noexcept {
    using Float = core::Lanes<kWidth>;
    const std::int64_t size = c.group_size_ == kWholeRow ? core::padded(cols) : c.group_size_;
    std::int64_t done = 0;
#if defined(__x86_64__) && !defined(__clang__)
    if constexpr (kWidth == 8) {
      if (c.bytes_.usable() && c.last_ == 15) done = c.search<16>(x, cols, size, scales, zeros, codes, restored);
      if (c.bytes_.usable() && c.last_ == 7) done = c.search<8>(x, cols, size, scales, zeros, codes, restored);
    }
#endif
    for (std::int64_t group = done / size; group * size < cols; ++group) {
      const Float scale = scales[group];
      const Float zero = zeros[group];
      for (std::int64_t j = std::max(done, group * size); j < std::min((group + 1) * size, cols); j += kWidth) {
        Float code;
        Float level;
        c.nearest(Float::load(x + j) / scale + zero, code, level);
        code.store(codes + j);
        if (restored) ((level - zero) * scale).store(restored + j);
      }
    }
  }

 private:
#if defined(__x86_64__) && !defined(__clang__)
  static constexpr std::int64_t kSearched = 64;  // columns in two searches

  /// As many columns as searches in bytes cover, a multiple of kSearched, which is returned.
  template <int kLevels>
  [[gnu::always_inline]] std::int64_t search(const float* x, std::int64_t cols, std::int64_t size, const float* scales,
                                             const float* zeros, std::uint8_t* codes, float* restored) const noexcept {
    std::int64_t next = size;  // where the next group begins
    std::int64_t j = 0;
    for (; j + kSearched <= cols; j += kSearched) {
      const float* scale[kSearched / core::kLanes];
      const float* zero[kSearched / core::kLanes];
      for (int k = 0; k < kSearched / core::kLanes; ++k) {
        if (j + k * core::kLanes == next) {
          next += size;
          ++scales;
          ++zeros;
        }
        scale[k] = scales;
        zero[k] = zeros;
      }
      search<kLevels>(x + j, scale, zero, codes + j, restored ? restored + j : nullptr,
                      std::make_integer_sequence<int, LevelBytes::kVectors>{});
    }
    return j;
  }
  /// kSearched columns; a scale and a zero for each 16 of them.
  template <int kLevels, int... kVector>
  [[gnu::always_inline]] void search(const float* x, const float* const* scale, const float* const* zero,
                                     std::uint8_t* codes, float* restored,
                                     std::integer_sequence<int, kVector...> /*all*/) const noexcept {
    using Float = core::Lanes<8>;
    using Search = LevelBytes::Search<kLevels>;
    constexpr std::int64_t kHalf = kSearched / 2;
    Float low[] = {twice(x + 8 * kVector, scale[kVector / 2], zero[kVector / 2])...};
    Float high[] = {twice(x + kHalf + 8 * kVector, scale[2 + kVector / 2], zero[2 + kVector / 2])...};
    Search in_low(bytes_, low);
    Search in_high(bytes_, high);
    Search::run_two(in_low, in_high);
    in_low.store_codes(codes);
    in_high.store_codes(codes + kHalf);
    if (!restored) return;
    in_low.levels(low);
    in_high.levels(high);
    (restore(low[kVector], scale[kVector / 2], zero[kVector / 2], restored + 8 * kVector), ...);
    (restore(high[kVector], scale[2 + kVector / 2], zero[2 + kVector / 2], restored + kHalf + 8 * kVector), ...);
  }
  [[gnu::always_inline]] static core::Lanes<8> twice(const float* x, const float* scale, const float* zero) noexcept {
    using Float = core::Lanes<8>;
    const Float position = min(Float::load(x) / Float::broadcast(scale) + Float::broadcast(zero), 256);
    return position + position;
  }
  [[gnu::always_inline]] static void restore(const core::Lanes<8>& level, const float* scale, const float* zero,
                                             float* to) noexcept {
    using Float = core::Lanes<8>;
    ((level - Float::broadcast(zero)) * Float::broadcast(scale)).store(to);
  }
#endif

  std::int64_t group_size_;
  bool uniform_;
  std::size_t last_;                // highest code
  float high_;                      // its level
  std::array<float, 32> level_{};   // of a codebook, see Lanes::nearest_level; of uniform levels only the first
  std::array<float, 32> middle_{};  // boundaries between neighbours
  LevelBytes bytes_;                // the same, where it serves
};

}  // namespace sinq::inline SINQ_ABI::detail::quantize
