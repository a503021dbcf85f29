// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <utility>

#include "config.hpp"
#include "level_bytes.hpp"

namespace sinq::inline SINQ_ABI::detail::quantize {

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
      if (restored && c.bytes_.usable())  // what has a table is fitted, and its fit asks what is restored
        done = c.last_ == 15 ? c.search<16>(x, cols, size, scales, zeros, codes, restored)
                             : c.search<8>(x, cols, size, scales, zeros, codes, restored);
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
      search<kLevels>(x + j, scale, zero, codes + j, restored + j,
                      std::make_integer_sequence<int, LevelBytes::kVectors>{});
    }
    return j;
  }
  /// kSearched columns; a scale and a zero for each 16 of them.
  template <int kLevels, int... kVector>
  [[gnu::always_inline]] void search(const float* x, const float* const* scale, const float* const* zero,
                                     std::uint8_t* codes, float* restored,
                                     std::integer_sequence<int, kVector...> /*all*/) const noexcept {
    constexpr std::int64_t kHalf = kSearched / 2;
    constexpr std::int64_t kUpper = kHalf / core::kLanes;
    core::Lanes<8> low[] = {twice(x + 8 * kVector, scale[kVector / 2], zero[kVector / 2])...};
    core::Lanes<8> high[] = {
        twice(x + kHalf + 8 * kVector, scale[kUpper + kVector / 2], zero[kUpper + kVector / 2])...};
    const LevelBytes::Searches<kLevels> found(bytes_, low, high);
    found.store_codes(codes);
    found.levels(low, high);
    (restore(low[kVector], scale[kVector / 2], zero[kVector / 2], restored + 8 * kVector), ...);
    (restore(high[kVector], scale[kUpper + kVector / 2], zero[kUpper + kVector / 2], restored + kHalf + 8 * kVector),
     ...);
  }
  [[gnu::always_inline]] static core::Lanes<8> twice(const float* x, const float* scale, const float* zero) noexcept {
    using Float = core::Lanes<8>;
    const Float position = min(Float(256), Float::load(x) / Float::broadcast(scale) + Float::broadcast(zero));
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
