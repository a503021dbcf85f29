// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "../core.hpp"

namespace sinq::inline SINQ_ABI::detail::quantize {

/// What no vector extension of the language says: in assembly, since an intrinsic compiles in functions for AVX2 only.
#define SINQ_OF_TWO(instruction, to, a, b) asm(instruction " {%2, %1, %0|%0, %1, %2}" : "=x"(to) : "x"(a), "x"(b))

/// A codebook of integers whose levels are searched for in bytes, with AVX2: four times as many positions to a register
/// as floats. What comes out is what Lanes::nearest_level finds.
///
/// Levels from -128 to 127 have boundaries that are halves of integers, so
///
///     boundary < position   <=>   2 boundary < ceil(2 position),
///
/// integers of nine bits. The boundary in the middle splits them in two halves, and either one has room in eight bits
/// when its center is taken off:
///
///   -256 . boundaries of the lower half . | middle | . boundaries of the upper half . 254
///             - center: -128 to 126                       - center: -128 to 126
///
/// The rest is a binary search whose boundaries are found by byte shuffles. Two more find the levels: of such a float
/// only the upper two bytes are not 0.
class LevelBytes {
 public:
  static constexpr int kVectors = 4;  // of 8 floats in a search

  LevelBytes() = default;
  /// `middle`: the ascending boundaries between the levels. Not usable unless those are 8 or 16 integers, no boundary
  /// is 0 (2 position may be above it where the position itself is too small for a float), and those of either half lie
  /// within 127 of each other.
  LevelBytes(const float* level, const float* middle, int levels) noexcept {
    if (levels != 8 && levels != 16) return;
    for (int k = 0; k < levels; ++k)
      if (!(level[k] >= -128 && level[k] <= 127) || level[k] != std::nearbyint(level[k])) return;
    for (int k = 0; k + 1 < levels; ++k)
      if (middle[k] == 0) return;
    const int half = levels / 2;
    const auto twice = [&](int k) { return static_cast<int>(2 * middle[k]); };
    int center[2];
    for (int upper = 0; upper < 2; ++upper) {
      const int least = twice(upper * half);
      const int most = twice(upper * half + half - 2);
      if (most - least > 254) return;
      center[upper] = (least + most + 2) >> 1;  // so that no boundary is at 127, which nothing exceeds
      fill(less_center_[upper], -center[upper]);
    }
    usable_ = true;
    fill(middle_, twice(half - 1));
    for (int step = 0, width = levels / 4; width > 0; ++step, width /= 2)
      for (int k = 0; k < half / width; ++k) {  // intervals of 2 width levels, each with one boundary in its middle
        const int boundary = (2 * k + 1) * width - 1;
        set(boundary_[step], k, twice(boundary) - center[boundary < half ? 0 : 1]);
      }
    for (int k = 0; k < levels; ++k) {
      const auto bits = std::bit_cast<std::uint32_t>(level[k]);
      set(third_byte_, k, static_cast<int>(bits >> 16 & 0xff));
      set(fourth_byte_, k, static_cast<int>(bits >> 24));
    }
  }

  [[nodiscard]] bool usable() const noexcept { return usable_; }

 private:
  static constexpr int kBytes = 32;
  struct alignas(kBytes) Table {
    std::uint8_t of[kBytes] = {};  // 16 entries, twice: a shuffle stays within a half
  };
  struct alignas(kBytes) Number {
    std::int16_t in_all[kBytes / 2] = {};
  };
  static void set(Table& table, int k, int value) noexcept {
    table.of[k] = table.of[k + kBytes / 2] = static_cast<std::uint8_t>(value);
  }
  static void fill(Number& number, int value) noexcept {
    for (auto& v : number.in_all) v = static_cast<std::int16_t>(value);
  }

  bool usable_ = false;
  Number middle_;
  Number less_center_[2];
  Table boundary_[3];
  Table third_byte_;
  Table fourth_byte_;

#if defined(__x86_64__) && !defined(__clang__)
  /// The search for the levels nearest to kVectors vectors of positions.
  template <int kLevels>
  class Search {
    using Float = core::Lanes<8>;
    using Floats [[gnu::vector_size(kBytes)]] = float;
    using Ints [[gnu::vector_size(kBytes)]] = std::int32_t;
    using Shorts [[gnu::vector_size(kBytes)]] = std::int16_t;
    using Bytes [[gnu::vector_size(kBytes)]] = std::int8_t;

   public:
    /// `twice`: the positions times two. From 2^31 on they are taken for the lowest, as is what is not a number.
    [[gnu::always_inline]] Search(const LevelBytes& of, const Float (&twice)[kVectors]) noexcept : of_(&of) {
      Shorts low;
      Shorts high;
      round_up(twice[0], twice[1], low);
      round_up(twice[2], twice[3], high);
      Shorts middle;
      Shorts less_lower;
      Shorts less_upper;
      load(of.middle_, middle);
      load(of.less_center_[0], less_lower);
      load(of.less_center_[1], less_upper);
      const Shorts low_above = low > middle;
      const Shorts high_above = high > middle;
      const Shorts less_low = low_above ? less_upper : less_lower;
      const Shorts less_high = high_above ? less_upper : less_lower;
      SINQ_OF_TWO("vpaddsw", low, low, less_low);
      SINQ_OF_TWO("vpaddsw", high, high, less_high);
      SINQ_OF_TWO("vpacksswb", twice_, low, high);
      SINQ_OF_TWO("vpacksswb", index_, low_above, high_above);
      index_ &= Bytes{} + std::int8_t{1};
    }
    template <int kStep>
    [[gnu::always_inline]] void step() noexcept {
      Bytes boundary;
      look_up(of_->boundary_[kStep], boundary);
      index_ = index_ + index_ - (twice_ > boundary);
    }
    [[gnu::always_inline]] void levels(Float (&level)[kVectors]) const noexcept {
      Bytes third;
      Bytes fourth;
      look_up(of_->third_byte_, third);
      look_up(of_->fourth_byte_, fourth);
      Shorts low;
      Shorts high;
      SINQ_OF_TWO("vpunpcklbw", low, third, fourth);
      SINQ_OF_TWO("vpunpckhbw", high, third, fourth);
      const Shorts zeros{};
      Ints v;
      SINQ_OF_TWO("vpunpcklwd", v, zeros, low);
      level[0] = Float::of_bits(v);
      SINQ_OF_TWO("vpunpckhwd", v, zeros, low);
      level[1] = Float::of_bits(v);
      SINQ_OF_TWO("vpunpcklwd", v, zeros, high);
      level[2] = Float::of_bits(v);
      SINQ_OF_TWO("vpunpckhwd", v, zeros, high);
      level[3] = Float::of_bits(v);
    }
    /// All codes, one vector after the other. (Packing went half by half.)
    [[gnu::always_inline]] void store_codes(std::uint8_t* to) const noexcept {
      const Ints codes = __builtin_shuffle(reinterpret_cast<Ints>(index_), Ints{0, 4, 1, 5, 2, 6, 3, 7});
      std::memcpy(to, &codes, sizeof codes);
    }

   private:
    template <class Vector, class From>
    [[gnu::always_inline]] static void load(const From& from, Vector& v) noexcept {
      std::memcpy(&v, &from, sizeof v);
    }
    [[gnu::always_inline]] static void round_up(const Float& a, const Float& b, Shorts& integers) noexcept {
      Ints from_a;
      Ints from_b;
      round_up(a, from_a);
      round_up(b, from_b);
      SINQ_OF_TWO("vpackssdw", integers, from_a, from_b);
    }
    [[gnu::always_inline]] static void round_up(const Float& a, Ints& integers) noexcept {
      auto v = reinterpret_cast<Floats>(a.bits().v);
      asm("vroundps {$2, %0, %0|%0, %0, 2}" : "+x"(v));
      integers = __builtin_convertvector(v, Ints);
    }
    [[gnu::always_inline]] void look_up(const Table& table, Bytes& found) const noexcept {
      Bytes entries;
      load(table, entries);
      SINQ_OF_TWO("vpshufb", found, entries, index_);
    }

    const LevelBytes* of_;
    Bytes twice_;
    Bytes index_;
  };

 public:
  /// Two searches in turns: in one, each step waits for the one before it. Positions come times two, below 2^31.
  template <int kLevels>
  class Searches {
    using Positions = core::Lanes<8>[kVectors];

   public:
    [[gnu::always_inline]] Searches(const LevelBytes& of, const Positions& low, const Positions& high) noexcept
        : low_(of, low), high_(of, high) {
      low_.template step<0>();
      high_.template step<0>();
      low_.template step<1>();
      high_.template step<1>();
      if constexpr (kLevels == 16) {
        low_.template step<2>();
        high_.template step<2>();
      }
    }
    [[gnu::always_inline]] void levels(Positions& low, Positions& high) const noexcept {
      low_.levels(low);
      high_.levels(high);
    }
    /// 64 of them.
    [[gnu::always_inline]] void store_codes(std::uint8_t* to) const noexcept {
      low_.store_codes(to);
      high_.store_codes(to + 8 * kVectors);
    }

   private:
    Search<kLevels> low_;
    Search<kLevels> high_;
  };
#endif
};
#undef SINQ_OF_TWO

}  // namespace sinq::inline SINQ_ABI::detail::quantize
