// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>

#include "../core.hpp"

namespace sinq::inline SINQ_ABI::detail::quantize {

template <int kWidth>
struct VectorTypes {
  using Floats [[gnu::vector_size(4 * kWidth)]] = float;
  using Ints [[gnu::vector_size(4 * kWidth)]] = std::int32_t;
};

/// kWidth floats, one row's in each. The fit of a group works on 4, 8 or 16 rows at once and never adds across lanes,
/// so a row's result depends neither on its neighbours nor on how many lanes an instruction set has.
///
/// For that every lane must also round alike: a product is kept apart from the sum it goes into (mul_add), because
/// whether a compiler may fuse the two depends on flags and instruction set. -ffast-math in the including translation
/// unit voids this.
///
/// A class with a copy constructor of its own around a GNU vector: such a class is returned through memory on every
/// instruction set, so the inline functions below have one ABI (and no warnings about it), and once inlined no memory
/// is left of it.
template <int kWidth>
class Lanes {
  using Floats = typename VectorTypes<kWidth>::Floats;
  using Ints = typename VectorTypes<kWidth>::Ints;

 public:
  class Condition {
   public:
    [[gnu::always_inline]] explicit Condition(const Ints& mask) noexcept : mask_(mask) {}
    [[gnu::always_inline]] Condition(const Condition& other) noexcept : mask_(other.mask_) {}
    Condition& operator=(const Condition&) = delete;
    ~Condition() = default;

   private:
    friend Lanes;
    Ints mask_;
  };

  [[gnu::always_inline]] Lanes(float all = 0) noexcept : v_(Floats{} + all) {}
  [[gnu::always_inline]] Lanes(const Lanes& other) noexcept : v_(other.v_) {}
  [[gnu::always_inline]] Lanes& operator=(const Lanes& other) noexcept {
    v_ = other.v_;
    return *this;
  }
  ~Lanes() = default;

  [[gnu::always_inline]] static Lanes load(const float* from) noexcept {
    Lanes r;
    std::memcpy(&r.v_, from, sizeof r.v_);
    return r;
  }
  [[gnu::always_inline]] void store(float* to) const noexcept { std::memcpy(to, &v_, sizeof v_); }
  /// Of lanes that hold integers.
  [[gnu::always_inline]] void store(std::int32_t* to) const noexcept {
    const Ints integers = __builtin_convertvector(v_, Ints);
    std::memcpy(to, &integers, sizeof integers);
  }

  [[gnu::always_inline]] friend Lanes operator+(const Lanes& a, const Lanes& b) noexcept { return make(a.v_ + b.v_); }
  [[gnu::always_inline]] friend Lanes operator-(const Lanes& a, const Lanes& b) noexcept { return make(a.v_ - b.v_); }
  [[gnu::always_inline]] friend Lanes operator*(const Lanes& a, const Lanes& b) noexcept { return make(a.v_ * b.v_); }
  [[gnu::always_inline]] friend Lanes operator/(const Lanes& a, const Lanes& b) noexcept { return make(a.v_ / b.v_); }
  [[gnu::always_inline]] friend Lanes operator-(const Lanes& a) noexcept { return make(-a.v_); }
  [[gnu::always_inline]] friend Condition operator<(const Lanes& a, const Lanes& b) noexcept {
    return Condition(a.v_ < b.v_);
  }
  [[gnu::always_inline]] friend Condition operator==(const Lanes& a, const Lanes& b) noexcept {
    return Condition(a.v_ == b.v_);
  }
  [[gnu::always_inline]] static Lanes select(const Condition& c, const Lanes& a, const Lanes& b) noexcept {
    return make(c.mask_ ? a.v_ : b.v_);
  }

  /// b where a is not a number.
  [[gnu::always_inline]] friend Lanes min(const Lanes& a, const Lanes& b) noexcept { return select(a < b, a, b); }
  [[gnu::always_inline]] friend Lanes max(const Lanes& a, const Lanes& b) noexcept { return select(b < a, a, b); }
  [[gnu::always_inline]] friend Lanes clamp(const Lanes& a, const Lanes& low, const Lanes& high) noexcept {
    return min(max(a, low), high);
  }
  [[gnu::always_inline]] friend Lanes abs(const Lanes& a) noexcept { return max(a, -a); }

  /// a b + c, the product rounded first.
  [[gnu::always_inline]] friend Lanes mul_add(const Lanes& a, const Lanes& b, const Lanes& c) noexcept {
#if defined(__clang__)
#pragma clang fp contract(off)
#endif
    Floats product = a.v_ * b.v_;
#if !defined(__clang__) && defined(__x86_64__)  // g++ knows no such pragma; this hides the product from it
    asm("" : "+v"(product));
#elif !defined(__clang__) && defined(__aarch64__)
    asm("" : "+w"(product));
#elif !defined(__clang__)
    asm("" : "+m"(product));
#endif
    return make(product + c.v_);
  }

  /// To the nearest integer, ties to even; below 2^22 in magnitude: beyond 1.5 * 2^23 a float has no fraction left.
  [[gnu::always_inline]] friend Lanes round(const Lanes& a) noexcept {
    const Floats shifted = a.v_ + 0x1.8p23f;
    return make(shifted - 0x1.8p23f);
  }

  /// 2^e and 2^-e with 2^e <= a < 2^(e+1); e is kept within -126 and 126.
  [[gnu::always_inline]] static void power_of_two(const Lanes& a, Lanes& power, Lanes& inverse) noexcept {
    Ints e;
    std::memcpy(&e, &a.v_, sizeof e);
    e = e >> 23 & 0xff;
    e = e < 1 ? Ints{} + 1 : e;
    e = e > 253 ? Ints{} + 253 : e;
    const Ints up = e << 23;
    const Ints down = (254 - e) << 23;
    std::memcpy(&power.v_, &up, sizeof up);
    std::memcpy(&inverse.v_, &down, sizeof down);
  }

  /// Every lane as it is after `change`.
  template <class Change>
  [[gnu::always_inline]] Lanes each(Change&& change) const noexcept {
    float lanes[kWidth];
    store(lanes);
    for (float& lane : lanes) lane = change(lane);
    return load(lanes);
  }

 private:
  [[gnu::always_inline]] static Lanes make(const Floats& v) noexcept {
    Lanes r;
    r.v_ = v;
    return r;
  }

  Floats v_;
};

}  // namespace sinq::inline SINQ_ABI::detail::quantize
