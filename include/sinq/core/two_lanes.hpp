// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "lanes.hpp"

namespace sinq::inline SINQ_ABI::detail::core {

/// Lanes twice, side by side: while one waits for the operation before, the other is busy.
template <class Half>
class TwoLanes {
 public:
  class Condition {
   public:
    [[gnu::always_inline]] Condition(const typename Half::Condition& a, const typename Half::Condition& b) noexcept
        : low(a), high(b) {}

    typename Half::Condition low, high;
  };

  [[gnu::always_inline]] TwoLanes(float all = 0) noexcept : low(all), high(low) {}
  [[gnu::always_inline]] TwoLanes(const Half& a, const Half& b) noexcept : low(a), high(b) {}

  [[gnu::always_inline]] static TwoLanes load(const float* from) noexcept {
    return {Half::load(from), Half::load(from + kHalf)};
  }
  template <class T>
  [[gnu::always_inline]] void store(T* to) const noexcept {
    low.store(to);
    high.store(to + kHalf);
  }

  [[gnu::always_inline]] friend TwoLanes operator+(const TwoLanes& a, const TwoLanes& b) noexcept {
    return {a.low + b.low, a.high + b.high};
  }
  [[gnu::always_inline]] friend TwoLanes operator-(const TwoLanes& a, const TwoLanes& b) noexcept {
    return {a.low - b.low, a.high - b.high};
  }
  [[gnu::always_inline]] friend TwoLanes operator*(const TwoLanes& a, const TwoLanes& b) noexcept {
    return {a.low * b.low, a.high * b.high};
  }
  [[gnu::always_inline]] friend TwoLanes operator/(const TwoLanes& a, const TwoLanes& b) noexcept {
    return {a.low / b.low, a.high / b.high};
  }
  [[gnu::always_inline]] friend TwoLanes operator-(const TwoLanes& a) noexcept { return {-a.low, -a.high}; }
  [[gnu::always_inline]] friend Condition operator<(const TwoLanes& a, const TwoLanes& b) noexcept {
    return {a.low < b.low, a.high < b.high};
  }
  [[gnu::always_inline]] friend Condition operator==(const TwoLanes& a, const TwoLanes& b) noexcept {
    return {a.low == b.low, a.high == b.high};
  }
  [[gnu::always_inline]] static TwoLanes select(const Condition& c, const TwoLanes& a, const TwoLanes& b) noexcept {
    return {Half::select(c.low, a.low, b.low), Half::select(c.high, a.high, b.high)};
  }
  [[gnu::always_inline]] static bool any(const Condition& c) noexcept { return Half::any(c.low) || Half::any(c.high); }

  [[gnu::always_inline]] friend TwoLanes min(const TwoLanes& a, const TwoLanes& b) noexcept {
    return {min(a.low, b.low), min(a.high, b.high)};
  }
  [[gnu::always_inline]] friend TwoLanes max(const TwoLanes& a, const TwoLanes& b) noexcept {
    return {max(a.low, b.low), max(a.high, b.high)};
  }
  [[gnu::always_inline]] friend TwoLanes clamp(const TwoLanes& a, const TwoLanes& least,
                                               const TwoLanes& most) noexcept {
    return min(max(a, least), most);
  }
  [[gnu::always_inline]] friend TwoLanes abs(const TwoLanes& a) noexcept { return {abs(a.low), abs(a.high)}; }
  [[gnu::always_inline]] friend TwoLanes mul_add(const TwoLanes& a, const TwoLanes& b, const TwoLanes& c) noexcept {
    return {mul_add(a.low, b.low, c.low), mul_add(a.high, b.high, c.high)};
  }
  [[gnu::always_inline]] friend TwoLanes copy_sign(const TwoLanes& a, const TwoLanes& b) noexcept {
    return {copy_sign(a.low, b.low), copy_sign(a.high, b.high)};
  }
  [[gnu::always_inline]] friend TwoLanes scale_by_power(const TwoLanes& a, const TwoLanes& n) noexcept {
    return {scale_by_power(a.low, n.low), scale_by_power(a.high, n.high)};
  }
  [[gnu::always_inline]] static void split(const TwoLanes& a, TwoLanes& exponent, TwoLanes& mantissa) noexcept {
    Half::split(a.low, exponent.low, mantissa.low);
    Half::split(a.high, exponent.high, mantissa.high);
  }
  [[gnu::always_inline]] friend TwoLanes round(const TwoLanes& a) noexcept { return {round(a.low), round(a.high)}; }
  [[gnu::always_inline]] static void power_of_two(const TwoLanes& a, TwoLanes& power, TwoLanes& inverse) noexcept {
    Half::power_of_two(a.low, power.low, inverse.low);
    Half::power_of_two(a.high, power.high, inverse.high);
  }
  template <int kLevels>
  [[gnu::always_inline]] static TwoLanes nearest_level(const TwoLanes& position, const float* middle,
                                                       const float* level, TwoLanes& code) noexcept {
    return {Half::template nearest_level<kLevels>(position.low, middle, level, code.low),
            Half::template nearest_level<kLevels>(position.high, middle, level, code.high)};
  }
  template <class Op>
  [[gnu::always_inline]] float fold(Op&& op) const noexcept {
    return op(low, high).fold(op);
  }

  Half low, high;

 private:
  static constexpr int kHalf = sizeof(Half) / sizeof(float);
};

/// kCount floats in registers of kWidth: Lanes<kWidth>, or two of half as many each.
template <int kWidth, int kCount>
struct LanesOf {
  using Type = TwoLanes<typename LanesOf<kWidth, kCount / 2>::Type>;
};
template <int kWidth>
struct LanesOf<kWidth, kWidth> {
  using Type = Lanes<kWidth>;
};
template <int kWidth, int kCount>
using ManyLanes = typename LanesOf<kWidth, kCount>::Type;

}  // namespace sinq::inline SINQ_ABI::detail::core
