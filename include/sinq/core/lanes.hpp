// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu.hpp"
#include "types.hpp"

// Vector code that is written once, compiled for every instruction set, and gives the same bits on each.

namespace sinq::inline SINQ_ABI::detail::core {

template <int kWidth>
struct VectorTypes {
  using Floats [[gnu::vector_size(4 * kWidth)]] = float;
  using Ints [[gnu::vector_size(4 * kWidth)]] = std::int32_t;
  using Doubles [[gnu::vector_size(8 * kWidth)]] = double;
  using Shorts [[gnu::vector_size(2 * kWidth)]] = std::uint16_t;
  using Bytes [[gnu::vector_size(kWidth)]] = std::uint8_t;
};

/// Sums over columns run in this many lanes on every instruction set (lane = column mod 16), which are then folded in
/// halves: 16 -> 8 -> 4 -> 2 -> 1.
inline constexpr std::int64_t kLanes = 16;

/// Rows of a buffer are padded with zeros to a multiple of kLanes.
[[nodiscard]] constexpr std::int64_t padded(std::int64_t cols) noexcept {
  return (cols + kLanes - 1) / kLanes * kLanes;
}

/// The compiler is not told where v comes from: it does not merge that with what follows, nor put it off.
template <class Vector>
[[gnu::always_inline]] inline void keep_order([[maybe_unused]] Vector& v) noexcept {
#if defined(__clang__)  // which takes no wide operands before it has inlined this
#elif defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#else
  asm("" : "+m"(v));
#endif
}

/// product = a b, a being a vector or a number, kept apart from a sum that it goes into.
template <class A, class Vector>
[[gnu::always_inline]] inline void multiply_unfused(const A& a, const Vector& b, Vector& product) noexcept {
#if defined(__clang__)
#pragma clang fp contract(off)
#endif
  product = a * b;
  keep_order(product);  // g++ knows no such pragma; this hides the product from it
}

template <int kWidth, class Floats>
[[gnu::always_inline]] inline void load_all(const float* from, Floats& all) noexcept {
  all = Floats{} + *from;
}
template <int kWidth, class Floats>
[[gnu::always_inline]] inline void least_of(const Floats& a, const Floats& b, Floats& least) noexcept {
  least = a < b ? a : b;
}
template <int kWidth, class Floats>
[[gnu::always_inline]] inline void most_of(const Floats& a, const Floats& b, Floats& most) noexcept {
  most = b < a ? a : b;
}
template <int kWidth, class Ints>
[[gnu::always_inline]] inline void store_bytes(const Ints& integers, std::uint8_t* to) noexcept {
  const auto bytes = __builtin_convertvector(integers, typename VectorTypes<kWidth>::Bytes);
  std::memcpy(to, &bytes, sizeof bytes);
}
#if !defined(__clang__)
/// g++ takes one lane at a time; a shuffle within each half is one instruction.
template <int kWidth, class Ints>
requires(kWidth == 8) [[gnu::always_inline]] inline void store_bytes(const Ints& integers, std::uint8_t* to) noexcept {
  typename VectorTypes<sizeof integers>::Bytes bytes;
  std::memcpy(&bytes, &integers, sizeof bytes);
  const decltype(bytes) lowest = {0,  4,  8,  12, 0,  4,  8,  12, 0,  4,  8,  12, 0,  4,  8,  12,
                                  16, 20, 24, 28, 16, 20, 24, 28, 16, 20, 24, 28, 16, 20, 24, 28};
  bytes = __builtin_shuffle(bytes, lowest);
  std::memcpy(to, &bytes, 4);
  std::memcpy(to + 4, reinterpret_cast<const std::byte*>(&bytes) + 16, 4);
}
#endif
#if defined(__x86_64__) && !defined(__clang__)  // single instructions, of which g++ makes two
template <int kWidth, class Floats>
requires(kWidth > 4) [[gnu::always_inline]] inline void load_all(const float* from, Floats& all) noexcept {
  asm("{vbroadcastss %1, %0|vbroadcastss %0, %1}" : "=v"(all) : "m"(*from));
}
template <int kWidth, class Floats>
requires(kWidth > 4)
    [[gnu::always_inline]] inline void least_of(const Floats& a, const Floats& b, Floats& least) noexcept {
  asm("vminps {%2, %1, %0|%0, %1, %2}" : "=v"(least) : "v"(a), "vm"(b));
}
template <int kWidth, class Floats>
requires(kWidth > 4)
    [[gnu::always_inline]] inline void most_of(const Floats& a, const Floats& b, Floats& most) noexcept {
  asm("vmaxps {%2, %1, %0|%0, %1, %2}" : "=v"(most) : "v"(a), "vm"(b));
}
#endif

template <int kWidth>
class DoubleLanes;

/// kWidth floats (4, 8 or 16) that are worked on at once.
///
/// Every lane rounds alike on every instruction set: a product is kept apart from the sum it goes into (product,
/// mul_add), because whether a compiler may fuse the two depends on flags and instruction set. -ffast-math in the
/// including translation unit voids this.
template <int kWidth>
class Lanes {
  using Floats = typename VectorTypes<kWidth>::Floats;
  using Ints = typename VectorTypes<kWidth>::Ints;
  using Doubles = typename VectorTypes<kWidth>::Doubles;
  using Shorts = typename VectorTypes<kWidth>::Shorts;
  using Bytes = typename VectorTypes<kWidth>::Bytes;

 public:
  // Vectors are handed from function to function in classes with copy constructors of their own: such a class is
  // returned through memory on every instruction set, so these functions have one ABI (and no warnings about it), and
  // once inlined no memory is left of it.
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

  class Bits {
   public:
    [[gnu::always_inline]] explicit Bits(const Ints& integers) noexcept : v(integers) {}
    [[gnu::always_inline]] Bits(const Bits& other) noexcept : v(other.v) {}
    Bits& operator=(const Bits&) = delete;
    ~Bits() = default;

    Ints v;
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
  /// The number at `from` in all lanes: a load does that, where from a register it takes an addition (which makes 0 of
  /// -0) and a shuffle.
  [[gnu::always_inline]] static Lanes broadcast(const float* from) noexcept {
    Lanes r;
    load_all<kWidth>(from, r.v_);
    return r;
  }
  [[gnu::always_inline]] void store(float* to) const noexcept { std::memcpy(to, &v_, sizeof v_); }
  /// Of lanes that hold integers.
  [[gnu::always_inline]] void store(std::int32_t* to) const noexcept {
    const Ints integers = __builtin_convertvector(v_, Ints);
    std::memcpy(to, &integers, sizeof integers);
  }
  /// Of lanes that hold integers from 0 to 255.
  [[gnu::always_inline]] void store(std::uint8_t* to) const noexcept {
    const Ints integers = __builtin_convertvector(v_, Ints);
    store_bytes<kWidth>(integers, to);
  }

  /// kWidth elements of any type, at any alignment.
  [[gnu::always_inline]] static Lanes load(const std::byte* from, float /*type*/) noexcept {
    Lanes r;
    std::memcpy(&r.v_, from, sizeof r.v_);
    return r;
  }
  [[gnu::always_inline]] static Lanes load(const std::byte* from, double /*type*/) noexcept {
    Doubles wide;
    std::memcpy(&wide, from, sizeof wide);
    return make(__builtin_convertvector(wide, Floats));
  }
  [[gnu::always_inline]] static Lanes load(const std::byte* from, bfloat16 /*type*/) noexcept {
    return of_bits(load_shorts(from).v << 16);
  }
  /// Moves the 5-bit exponent to where the 8-bit one is, 112 higher; 112 higher again makes infinities and NaNs; a
  /// subnormal is what 2^-14 (1 + mantissa) exceeds 2^-14 by.
  [[gnu::always_inline]] static Lanes load(const std::byte* from, half /*type*/) noexcept {
    const Ints bits = load_shorts(from).v;
    const Ints exponent = bits & 0x7c00;
    const Ints moved = ((bits & 0x7fff) << 13) + (112 << 23);
    const Ints normal = exponent == 0x7c00 ? moved + (112 << 23) : moved;
    const Lanes subnormal = of_bits(moved + (1 << 23)) - Lanes(0x1p-14f);
    const Ints magnitude = exponent == 0 ? subnormal.bits().v : normal;
    return of_bits(magnitude | (bits & 0x8000) << 16);
  }

  [[gnu::always_inline]] static Lanes of_bits(const Ints& bits) noexcept {
    Lanes r;
    std::memcpy(&r.v_, &bits, sizeof bits);
    return r;
  }
  [[gnu::always_inline]] Bits bits() const noexcept {
    Ints r;
    std::memcpy(&r, &v_, sizeof r);
    return Bits(r);
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

  /// Whether it holds in any lane.
  [[gnu::always_inline]] static bool any(const Condition& c) noexcept {
    std::int32_t lanes[kWidth];
    std::memcpy(lanes, &c.mask_, sizeof lanes);
    std::int32_t all = 0;
    for (std::int32_t lane : lanes) all |= lane;
    return all != 0;
  }

  /// b where a is not a number.
  [[gnu::always_inline]] friend Lanes min(const Lanes& a, const Lanes& b) noexcept {
    Lanes r;
    least_of<kWidth>(a.v_, b.v_, r.v_);
    return r;
  }
  [[gnu::always_inline]] friend Lanes max(const Lanes& a, const Lanes& b) noexcept {
    Lanes r;
    most_of<kWidth>(a.v_, b.v_, r.v_);
    return r;
  }
  [[gnu::always_inline]] friend Lanes clamp(const Lanes& a, const Lanes& low, const Lanes& high) noexcept {
    return min(max(a, low), high);
  }
  [[gnu::always_inline]] friend Lanes abs(const Lanes& a) noexcept { return max(a, -a); }

  /// a b, rounded before it is added to anything.
  [[gnu::always_inline]] friend Lanes product(const Lanes& a, const Lanes& b) noexcept {
    Lanes r;
    multiply_unfused(a.v_, b.v_, r.v_);
    return r;
  }
  /// a b + c, the product rounded first.
  [[gnu::always_inline]] friend Lanes mul_add(const Lanes& a, const Lanes& b, const Lanes& c) noexcept {
    return product(a, b) + c;
  }

  /// This is to be known here: an addition that comes earlier is not put off.
  [[gnu::always_inline]] void keep_order() noexcept { core::keep_order(v_); }

  [[gnu::always_inline]] friend Lanes sqrt(const Lanes& a) noexcept {
#if defined(__clang__) && defined(__x86_64__)  // which takes no wider operands before it has inlined this
    typename VectorTypes<4>::Floats part[kWidth / 4];
    std::memcpy(&part, &a.v_, sizeof part);
    for (auto& p : part) {
      if constexpr (kWidth > 4)
        asm("vsqrtps %0, %0" : "+x"(p));
      else
        asm("sqrtps %0, %0" : "+x"(p));
    }
    Lanes r;
    std::memcpy(&r.v_, &part, sizeof part);
    return r;
#elif defined(__x86_64__)  // the language has no vector square root, and a loop of scalar ones stays one
    Floats root = a.v_;
    if constexpr (kWidth > 4)
      asm("vsqrtps %0, %0" : "+v"(root));
    else
      asm("sqrtps %0, %0" : "+x"(root));
    return make(root);
#else
    return a.each([](float v) { return std::sqrt(v); });
#endif
  }

  /// To the nearest integer, ties to even; below 2^22 in magnitude: beyond 1.5 * 2^23 a float has no fraction left.
  [[gnu::always_inline]] friend Lanes round(const Lanes& a) noexcept {
    const Floats shifted = a.v_ + 0x1.8p23f;
    return make(shifted - 0x1.8p23f);
  }

  /// 2^e and 2^-e with 2^e <= a < 2^(e+1); e is kept within -126 and 126.
  [[gnu::always_inline]] static void power_of_two(const Lanes& a, Lanes& power, Lanes& inverse) noexcept {
    Ints e = a.bits().v >> 23 & 0xff;
    e = e < 1 ? Ints{} + 1 : e;
    e = e > 253 ? Ints{} + 253 : e;
    power = of_bits(e << 23);
    inverse = of_bits((254 - e) << 23);
  }

  /// The larger of two magnitudes, compared as bits: ordered like the values, infinity and NaN above all others.
  [[gnu::always_inline]] friend Lanes max_magnitude(const Lanes& a, const Lanes& b) noexcept {
    const Ints x = a.bits().v & 0x7fff'ffff;
    const Ints y = b.bits().v & 0x7fff'ffff;
    return of_bits(x > y ? x : y);
  }

  /// a = 2^exponent mantissa with mantissa in [sqrt(1/2), sqrt(2)); a is normal and above 0.
  [[gnu::always_inline]] static void split(const Lanes& a, Lanes& exponent, Lanes& mantissa) noexcept {
    const Ints k = (a.bits().v - 0x3f35'04f3) >> 23;  // bits of sqrt(1/2)
    exponent = make(__builtin_convertvector(k, Floats));
    mantissa = of_bits(a.bits().v - (k << 23));
  }

  /// a 2^n for whole n, both 2^n and the result normal.
  [[gnu::always_inline]] friend Lanes scale_by_power(const Lanes& a, const Lanes& n) noexcept {
    const Ints k = __builtin_convertvector(n.v_, Ints);
    return a * of_bits((k + 127) << 23);
  }

  /// The magnitude of a with the sign of b.
  [[gnu::always_inline]] friend Lanes copy_sign(const Lanes& a, const Lanes& b) noexcept {
    return of_bits((a.bits().v & 0x7fff'ffff) | (b.bits().v & static_cast<std::int32_t>(0x8000'0000)));
  }

  /// As many of the ascending boundaries middle[0 .. kLevels - 2] as lie below a lane is its `code`, level[code] what
  /// it gets. Both arrays can be read up to 2 kWidth - 1.
  template <int kLevels>
  [[gnu::always_inline]] static Lanes nearest_level(const Lanes& position, const float* middle, const float* level,
                                                    Lanes& code) noexcept {
#if !defined(__clang__)  // which has no shuffle by a vector
    if constexpr (kLevels == 8 || kLevels == 16) {
      if constexpr (kLevels <= kWidth) {  // binary search: a shuffle finds the next boundary
        Ints index = position.v_ > middle[kLevels / 2 - 1] ? Ints{} + kLevels / 2 : Ints{};
        search<kLevels / 4>(position, middle, index);
        code = make(__builtin_convertvector(index, Floats));
        return make(__builtin_shuffle(load(level).v_, index));
      }
    }
    if constexpr (kLevels == 16 && kWidth == 8) {  // the same, the boundaries of each step in a register of their own
      const Floats low = load(middle).v_;
      const Floats high = load(middle + kWidth).v_;
      const Floats third = __builtin_shuffle(low, high, Ints{1, 5, 9, 13, 1, 5, 9, 13});
      const Floats fourth = __builtin_shuffle(low, high, Ints{0, 2, 4, 6, 8, 10, 12, 14});
      const Ints above = position.v_ > middle[7];  // -1 or 0
      Ints index = -above;
      index = index + index - (position.v_ > (above ? Floats{} + middle[11] : Floats{} + middle[3]));
      index = index + index - (position.v_ > __builtin_shuffle(third, index));
      index = index + index - (position.v_ > __builtin_shuffle(fourth, index));
      code = make(__builtin_convertvector(index, Floats));
      return make(__builtin_shuffle(load(level).v_, load(level + kWidth).v_, index));
    }
#endif
    Lanes nearest = level[0];
    code = 0;
#if !defined(__clang__) && !defined(__CUDACC__)  // which do not know it
#pragma GCC unroll 15                            // with -O2, too
#endif
    for (int k = 0; k + 1 < kLevels; ++k) {
      const Condition beyond = Lanes(middle[k]) < position;
      code = select(beyond, static_cast<float>(k + 1), code);
      nearest = select(beyond, level[k + 1], nearest);
    }
    return nearest;
  }

#if !defined(__clang__)  // which has no shuffle by a vector
  /// Entries of a table of 32, by the low five bits of the lanes.
  [[gnu::always_inline]] static Lanes lookup(const float* table, const Lanes& index) noexcept requires(kWidth == 16) {
    return make(__builtin_shuffle(load(table).v_, load(table + kWidth).v_, index.bits().v));
  }
#endif

  /// All lanes folded in halves, 16 -> 8 -> 4 -> 2 -> 1: the same order, hence the same bits, whatever the width (of
  /// 16 lanes in several registers: TwoLanes).
  template <class Op>
  [[gnu::always_inline]] float fold(Op&& op) const noexcept {
    Lanes r = *this;
    if constexpr (kWidth > 8) r = op(r, r.template swapped<8>(kAll));
    if constexpr (kWidth > 4) r = op(r, r.template swapped<4>(kAll));
    r = op(r, r.template swapped<2>(kAll));
    r = op(r, r.template swapped<1>(kAll));
    return r.v_[0];
  }

  /// The same sums of kWidth vectors at once, one below the other: lane l is that of the l-th.
  [[gnu::always_inline]] static Lanes sum_each(const float* from) noexcept {
    return summed<1>(from);
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
  static constexpr std::make_integer_sequence<int, kWidth> kAll{};

  [[gnu::always_inline]] static Lanes make(const Floats& v) noexcept {
    Lanes r;
    r.v_ = v;
    return r;
  }
  [[gnu::always_inline]] static Bits load_shorts(const std::byte* from) noexcept {
    Shorts shorts;
    std::memcpy(&shorts, from, sizeof shorts);
    return Bits(__builtin_convertvector(shorts, Ints));
  }
#if !defined(__clang__)
  /// The rest of a binary search (nearest_level), unrolled whatever the compiler's flags.
  template <int kHalf>
  [[gnu::always_inline]] static void search(const Lanes& position, const float* middle, Ints& index) noexcept {
    const Floats boundary = __builtin_shuffle(load(middle + kHalf - 1).v_, index);
    index = position.v_ > boundary ? index | kHalf : index;
    if constexpr (kHalf > 1) search<kHalf / 2>(position, middle, index);
  }
#endif
  template <int kDistance, int... kLane>
  [[gnu::always_inline]] Lanes swapped(std::integer_sequence<int, kLane...> /*all*/) const noexcept {
    return shuffled<(kLane ^ kDistance)...>(*this, *this);
  }
  /// Lane l is lane kIndex[l] of a and b, counted through. (nvcc loses packs among the arguments of a builtin; clang
  /// has no shuffle by a vector.)
  template <int... kIndex>
  [[gnu::always_inline]] static Lanes shuffled(const Lanes& a, const Lanes& b) noexcept {
#if defined(__clang__)
    return make(__builtin_shufflevector(a.v_, b.v_, kIndex...));
#else
    const Ints order = {kIndex...};
    return make(__builtin_shuffle(a.v_, b.v_, order));
#endif
  }
  /// Of the vectors at `from`, the first and every kDistance-th after it, summed down to kDistance lanes each. Depth
  /// first, so that few are held at a time.
  template <int kDistance>
  [[gnu::always_inline]] static Lanes summed(const float* from) noexcept {
    if constexpr (kDistance == kWidth) {
      return load(from);
    } else {
      const Lanes a = summed<2 * kDistance>(from);
      const Lanes b = summed<2 * kDistance>(from + kDistance * kWidth);
      return paired<kDistance>(a, b, kAll);
    }
  }
  /// Sums of lanes that are kDistance apart: those of a in the lower half of every 2 kDistance lanes, those of b in the
  /// upper one. Half of the operands are in their places: a blend, which costs less than a shuffle.
  template <int kDistance, int... kLane>
  [[gnu::always_inline]] static Lanes paired(const Lanes& a, const Lanes& b,
                                             std::integer_sequence<int, kLane...> /*all*/) noexcept {
    return shuffled<((kLane & kDistance ? kWidth : 0) + kLane)...>(a, b) +
           shuffled<((kLane & kDistance ? kWidth : 0) + (kLane ^ kDistance))...>(a, b);
  }

  Floats v_;

  friend class DoubleLanes<kWidth>;
};

/// kWidth sums in double, in which products of two floats are exact, so that fusing makes no difference.
template <int kWidth>
class DoubleLanes {
  using Half = typename VectorTypes<kWidth / 2>::Doubles;
  using HalfFloats = typename VectorTypes<kWidth / 2>::Floats;

 public:
  [[gnu::always_inline]] DoubleLanes() noexcept = default;
  [[gnu::always_inline]] DoubleLanes(const DoubleLanes& other) noexcept : low_(other.low_), high_(other.high_) {}
  DoubleLanes& operator=(const DoubleLanes&) = delete;
  ~DoubleLanes() = default;

  [[gnu::always_inline]] void load(const double* from) noexcept {
    std::memcpy(&low_, from, sizeof low_);
    std::memcpy(&high_, from + kWidth / 2, sizeof high_);
  }
  [[gnu::always_inline]] void store(double* to) const noexcept {
    std::memcpy(to, &low_, sizeof low_);
    std::memcpy(to + kWidth / 2, &high_, sizeof high_);
  }
  [[gnu::always_inline]] void add_product(const Lanes<kWidth>& a, const Lanes<kWidth>& b) noexcept {
    add_half<0>(low_, a, b);
    add_half<kWidth / 2>(high_, a, b);
  }
  [[gnu::always_inline]] void add(const Lanes<kWidth>& a) noexcept { add_product(a, 1); }
  /// += a b, the product rounded first.
  [[gnu::always_inline]] void add_rounded_product(double a, const DoubleLanes& b) noexcept {
    add_rounded(low_, a, b.low_);
    add_rounded(high_, a, b.high_);
  }

 private:
  [[gnu::always_inline]] static void add_rounded(Half& sum, double a, const Half& b) noexcept {
    Half product;
    multiply_unfused(a, b, product);
    sum += product;
  }
  template <int kFirst>
  [[gnu::always_inline]] static void add_half(Half& sum, const Lanes<kWidth>& a, const Lanes<kWidth>& b) noexcept {
    HalfFloats x;
    HalfFloats y;
    std::memcpy(&x, reinterpret_cast<const float*>(&a.v_) + kFirst, sizeof x);
    std::memcpy(&y, reinterpret_cast<const float*>(&b.v_) + kFirst, sizeof y);
    sum += __builtin_convertvector(x, Half) * __builtin_convertvector(y, Half);
  }

  Half low_{};
  Half high_{};
};

struct Plus {
  template <class T>
  [[gnu::always_inline]] T operator()(const T& a, const T& b) const noexcept {
    return a + b;
  }
};
struct Least {
  template <class T>
  [[gnu::always_inline]] T operator()(const T& a, const T& b) const noexcept {
    return min(a, b);
  }
};
struct Most {
  template <class T>
  [[gnu::always_inline]] T operator()(const T& a, const T& b) const noexcept {
    return max(a, b);
  }
};
struct MostMagnitude {
  template <class T>
  [[gnu::always_inline]] T operator()(const T& a, const T& b) const noexcept {
    return max_magnitude(a, b);
  }
};

/// Calls Body::run<kWidth>(args...), compiled for the instruction set in use. `run` and all it calls are always_inline,
/// or else they would be compiled for the portable one.
template <class Body, class... Args>
auto run_portable(const Args&... args) noexcept {
  return Body::template run<4>(args...);
}
#if defined(__x86_64__)
template <class Body, class... Args>
[[gnu::target("avx2,fma")]] auto run_avx2(const Args&... args) noexcept {
  return Body::template run<8>(args...);
}
template <class Body, class... Args>
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,fma")]] auto run_avx512(const Args&... args) noexcept {
  return Body::template run<16>(args...);
}
#endif

template <class Body, class... Args>
auto on_isa(const Args&... args) noexcept {
#if defined(__x86_64__)
  if (current_isa() >= Isa::avx512) return run_avx512<Body>(args...);
  if (current_isa() >= Isa::avx2) return run_avx2<Body>(args...);
#endif
  return run_portable<Body>(args...);
}

}  // namespace sinq::inline SINQ_ABI::detail::core
