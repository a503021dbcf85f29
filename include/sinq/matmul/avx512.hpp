// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "job.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

// AVX-512 (F, BW, VL, DQ): a strip's 16 rows in one register.
//
// The masked forms of some intrinsics, with all lanes on: g++ 12 warns that the plain ones use an uninitialized value.
// They compile to the same instructions.

#define SINQ_TARGET gnu::target("avx512f,avx512bw,avx512vl,avx512dq,fma")

namespace sinq::inline SINQ_ABI::detail::matmul::avx512 {

using Floats = __m512;
using Ints = __m512i;
inline constexpr int kWidth = 16;
inline constexpr __mmask16 kAll = 0xffff;

[[SINQ_TARGET, gnu::always_inline]] inline Floats all(float f) noexcept {
  return _mm512_set1_ps(f);
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats load(const float* p) noexcept {
  return _mm512_loadu_ps(p);
}
[[SINQ_TARGET, gnu::always_inline]] inline void store(float* p, Floats v) noexcept {
  _mm512_storeu_ps(p, v);
}
/// Once: g++ 12 would read the line anew for each of its codes.
[[SINQ_TARGET, gnu::always_inline]] inline Ints load_ints(const std::uint8_t* p) noexcept {
  Ints v = _mm512_loadu_si512(p);
  asm("" : "+v"(v));
  return v;
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats plus(Floats a, Floats b) noexcept {
  return a + b;
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats multiply(Floats a, Floats b) noexcept {
  return a * b;
}
/// a b + c
[[SINQ_TARGET, gnu::always_inline]] inline Floats multiply_add(Floats a, Floats b, Floats c) noexcept {
  return _mm512_fmadd_ps(a, b, c);
}
/// c - a b
[[SINQ_TARGET, gnu::always_inline]] inline Floats minus_product(Floats c, Floats a, Floats b) noexcept {
  return _mm512_fnmadd_ps(a, b, c);
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats to_floats(Ints v) noexcept {
  return _mm512_maskz_cvtepi32_ps(kAll, v);
}

/// Every lane kBy bits to the right, or -kBy to the left.
template <int kBy>
[[SINQ_TARGET, gnu::always_inline]] inline Ints shift(Ints v) noexcept {
  if constexpr (kBy > 0) return _mm512_maskz_srli_epi32(kAll, v, kBy);
  if constexpr (kBy < 0) return _mm512_maskz_slli_epi32(kAll, v, -kBy);
  return v;
}

/// The low kLow bits of every byte of a, the rest of b.
template <int kLow>
[[SINQ_TARGET, gnu::always_inline]] inline Ints merge(Ints a, Ints b) noexcept {
  return _mm512_ternarylogic_epi32(_mm512_set1_epi32(0x0101'0101 * ((1 << kLow) - 1)), a, b, 0xca);
}

/// From lanes whose low bits are codes to levels. Up to four bits by permuting a table, which ignores the bits above.
struct Lookup {
  Floats table;
  float first;

  [[SINQ_TARGET, gnu::always_inline]] explicit inline Lookup(const float* levels, int bits) noexcept
      : first(levels[0]) {
    float all[16];
    for (int k = 0; k < 16; ++k) all[k] = levels[k & ((1 << bits) - 1)];
    table = load(all);
  }
};

template <int kBits, bool kTable>
[[SINQ_TARGET, gnu::always_inline]] inline Floats level(Ints v, const Lookup& lookup) noexcept {
  if constexpr (kBits <= 4)
    return _mm512_maskz_permutexvar_ps(kAll, v, lookup.table);
  else  // 2^23 + code as a float, exactly, then the level of code 0 instead of 2^23
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(v, _mm512_set1_epi32((1 << kBits) - 1),
                                                         _mm512_set1_epi32(0x4b00'0000), 0xea)) -
           all(0x1p23f - lookup.first);
}

/// kWidth numbers of 16 bits.
[[SINQ_TARGET, gnu::always_inline]] inline Floats load_f16(const std::uint8_t* p) noexcept {
  return _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats load_bf16(const std::uint8_t* p) noexcept {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, _mm512_maskz_cvtepu16_epi32(kAll, halves), 16));
}
[[SINQ_TARGET, gnu::always_inline]] inline void store_f16(std::uint8_t* p, Floats v) noexcept {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(kAll, v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

[[SINQ_TARGET, gnu::always_inline]] inline Ints all_ints(int k) noexcept {
  return _mm512_set1_epi32(k);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints add_ints(Ints a, Ints b) noexcept {
  return _mm512_add_epi32(a, b);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints bits_and(Ints a, Ints b) noexcept {
  return _mm512_and_si512(a, b);
}
/// Every lane shifted by what the same lane of `count` says.
[[SINQ_TARGET, gnu::always_inline]] inline Ints right_by(Ints v, Ints count) noexcept {
  return _mm512_maskz_srlv_epi32(kAll, v, count);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints arithmetic_right_by(Ints v, Ints count) noexcept {
  return _mm512_maskz_srav_epi32(kAll, v, count);
}

/// Integers that every lane holds from its lowest bit on, one after the other, shifted to the left.
struct Fields {
  Ints mask;
  Ints width;  // bits of one
  Ints left;
  Ints line;  // the next integer in the bits of the mask

  [[SINQ_TARGET, gnu::always_inline]] inline Fields(int bits, int shift) noexcept
      : mask(all_ints(((1 << bits) - 1) << shift)), width(all_ints(bits)), left(all_ints(shift)), line(all_ints(0)) {}
  [[SINQ_TARGET, gnu::always_inline]] inline void fill(Ints v) noexcept {
    line = _mm512_maskz_rolv_epi32(kAll, v, left);
  }
  [[SINQ_TARGET, gnu::always_inline]] inline Ints next() noexcept {
    const Ints v = bits_and(line, mask);
    line = _mm512_maskz_rorv_epi32(kAll, line, width);
    return v;
  }
};

/// What sixteen tokens have at the same columns. There are not as many registers, but every distance from the first or
/// the ninth token is a register times 1, 2 or 4, as addresses can have it.
struct Sixteen {
  const std::int8_t* first;
  const std::int8_t* ninth;
  std::int64_t one, three, five, seven;  // tokens further on, in bytes

  [[SINQ_TARGET, gnu::always_inline]] inline Sixteen(const void* begin, std::int64_t token) noexcept
      : first(static_cast<const std::int8_t*>(begin)), one(token) {
    asm volatile("" : "+r"(first), "+r"(one)::"memory");  // what the products read has been written
    ninth = first + 8 * one;
    three = 3 * one;
    five = 5 * one;
    seven = 7 * one;
    asm("" : "+r"(ninth), "+r"(three), "+r"(five), "+r"(seven));
  }

 protected:
  template <int kFurther>
  static constexpr int kTimes = kFurther == 4                    ? 4
                                : kFurther == 2 || kFurther == 6 ? 2
                                                                 : 1;

  template <int kFurther>
  [[SINQ_TARGET, gnu::always_inline]] inline std::int64_t distance() const noexcept {
    constexpr int kOf = kFurther / kTimes<kFurther>;
    return kOf == 1 ? one : kOf == 3 ? three : kOf == 5 ? five : seven;
  }
  template <int kT>
  [[SINQ_TARGET, gnu::always_inline]] inline const std::int8_t* from(std::int64_t at) const noexcept {
    return (kT < 8 ? first : ninth) + at;
  }
};

template <int kTokens>
struct FloatTokens;  // floats.inc

template <>
struct FloatTokens<16> : Sixteen {
  static constexpr int kColumns = 4;

  [[SINQ_TARGET, gnu::always_inline]] inline FloatTokens(const float* x, std::int64_t token) noexcept
      : Sixteen(x, 4 * token) {}

  /// As in general.
  [[SINQ_TARGET, gnu::always_inline]] inline void multiply(const float* restored, std::int64_t c,
                                                           Floats (&sum)[16][1]) const noexcept {
    constexpr auto kTokens = std::make_integer_sequence<int, 16>{};
    add_column<0>(load(restored), 4 * c, sum, kTokens);
    add_column<1>(load(restored + kStripRows), 4 * c, sum, kTokens);
    add_column<2>(load(restored + 2 * kStripRows), 4 * c, sum, kTokens);
    add_column<3>(load(restored + 3 * kStripRows), 4 * c, sum, kTokens);
  }

 private:
  /// sum + a x, x being the activation of token kT that lies kBy bytes behind `at`.
  template <int kT, int kBy>
  [[SINQ_TARGET, gnu::always_inline]] inline Floats multiplied(Floats sum, Floats a, std::int64_t at) const noexcept {
    if constexpr (kT % 8 == 0)
      asm("{vfmadd231ps %c3(%2)%{1to16%}, %1, %0|vfmadd231ps %0, %1, dword ptr [%2+%c3]%{1to16%}}"
          : "+v"(sum)
          : "v"(a), "r"(from<kT>(at)), "i"(kBy));
    else
      asm("{vfmadd231ps %c3(%2,%4,%c5)%{1to16%}, %1, %0|vfmadd231ps %0, %1, dword ptr [%2+%4*%c5+%c3]%{1to16%}}"
          : "+v"(sum)
          : "v"(a), "r"(from<kT>(at)), "i"(kBy), "r"(distance<kT % 8>()), "i"(kTimes<kT % 8>));
    return sum;
  }
  template <int kColumn, int... kT>
  [[SINQ_TARGET, gnu::always_inline]] inline void add_column(Floats w, std::int64_t at, Floats (&sum)[16][1],
                                                             std::integer_sequence<int, kT...> /*all*/) const noexcept {
    ((sum[kT][0] = multiplied<kT, 4 * kColumn>(sum[kT][0], w, at)), ...);
  }
};

#include "reading.inc"

#include "floats.inc"

}  // namespace sinq::inline SINQ_ABI::detail::matmul::avx512

// --- products of bytes, with VNNI ----------------------------------------------------------------------------------

#undef SINQ_TARGET
#define SINQ_TARGET gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")

namespace sinq::inline SINQ_ABI::detail::matmul::avx512 {

[[nodiscard]] inline bool has_byte_products() noexcept {
  return core::has_avx512_vnni(core::this_x86());
}

template <int kBits>
[[SINQ_TARGET, gnu::always_inline]] inline Ints low_bits_of_bytes(Ints v) noexcept {
  return _mm512_and_si512(v, _mm512_set1_epi32(0x0101'0101 * ((1 << kBits) - 1)));
}
using Table = Ints;
[[SINQ_TARGET, gnu::always_inline]] inline Table load_table(const std::uint8_t* table) noexcept {
  return _mm512_maskz_broadcast_i32x4(kAll, _mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints lookup_bytes(Table table, Ints index) noexcept {
  return _mm512_shuffle_epi8(table, index);
}
/// sum + the four products of the unsigned bytes of every lane and four signed ones. In assembly, since g++ 12 makes
/// two instructions of it.
template <bool kWide>
[[SINQ_TARGET, gnu::always_inline]] inline Ints dot(Ints sum, Ints bytes, const std::int8_t* x) noexcept {
  struct Four {
    std::int8_t bytes[4];
  };
  asm("{vpdpbusd %2%{1to16%}, %1, %0|vpdpbusd %0, %1, %2%{1to16%}}"
      : "+v"(sum)
      : "v"(bytes), "m"(*reinterpret_cast<const Four*>(x)));
  return sum;
}
/// Of every 16 bits.
[[SINQ_TARGET, gnu::always_inline]] inline Ints minus_shorts(Ints v) noexcept {
  return _mm512_sub_epi16(_mm512_setzero_si512(), v);
}
/// sum + the two products of signed 16-bit numbers of every lane.
[[SINQ_TARGET, gnu::always_inline]] inline Ints dot_of_shorts(Ints sum, Ints a, Ints b) noexcept {
  return _mm512_dpwssd_epi32(sum, a, b);
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats larger_magnitude(Floats a, Floats b) noexcept {
  const Ints magnitude = _mm512_and_si512(_mm512_castps_si512(b), _mm512_set1_epi32(0x7fff'ffff));
  return _mm512_castsi512_ps(_mm512_maskz_max_epi32(kAll, _mm512_castps_si512(a), magnitude));  // ordered as integers
}
/// To the nearest integer.
[[SINQ_TARGET, gnu::always_inline]] inline Ints to_ints(Floats v) noexcept {
  return _mm512_maskz_cvtps_epi32(kAll, v);
}
[[SINQ_TARGET, gnu::always_inline]] inline void store_ints(std::int32_t* p, Ints v) noexcept {
  _mm512_storeu_si512(p, v);
}
/// The low bytes of kWidth lanes, four to a word.
[[SINQ_TARGET, gnu::always_inline]] inline void low_bytes(Ints v, std::int32_t* words) noexcept {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words), _mm512_maskz_cvtepi32_epi8(kAll, v));
}

#include "fours_x86.inc"

#include "integers.inc"

template <>
struct Tokens<16> : Sixteen {
  [[SINQ_TARGET, gnu::always_inline]] inline Tokens(const Prepared& x, std::int64_t n) noexcept
      : Sixteen(x.bytes(n), 4 * x.token) {}

  /// As in general. Where loops are unrolled t is known; t * one would be a product, since g++ does not see through the
  /// others.
  template <class T>
  [[SINQ_TARGET, gnu::always_inline]] inline T number(int t, std::int64_t at) const noexcept {
    const std::int64_t further = t % 8 == 0   ? 0
                                 : t % 8 == 1 ? one
                                 : t % 8 == 2 ? 2 * one
                                 : t % 8 == 3 ? three
                                 : t % 8 == 4 ? 4 * one
                                 : t % 8 == 5 ? five
                                 : t % 8 == 6 ? 2 * three
                                              : seven;
    return *reinterpret_cast<const T*>((t < 8 ? first : ninth) + at + further);
  }

  /// To the sums of all tokens, their products with four bytes each, kBy bytes behind `at`.
  template <int kBy>
  [[SINQ_TARGET, gnu::always_inline]] inline void add(Ints (&sum)[16][1][1], Ints bytes,
                                                      std::int64_t at) const noexcept {
    add<kBy>(sum, bytes, at, std::make_integer_sequence<int, 16>{});
  }

 private:
  template <int kBy, int... kT>
  [[SINQ_TARGET, gnu::always_inline]] inline void add(Ints (&sum)[16][1][1], Ints bytes, std::int64_t at,
                                                      std::integer_sequence<int, kT...> /*all*/) const noexcept {
    ((sum[kT][0][0] = multiplied<kT, kBy>(sum[kT][0][0], bytes, at)), ...);
  }
  /// `dot` with four activations of token kT.
  template <int kT, int kBy>
  [[SINQ_TARGET, gnu::always_inline]] inline Ints multiplied(Ints sum, Ints bytes, std::int64_t at) const noexcept {
    if constexpr (kT % 8 == 0)
      asm("{vpdpbusd %c3(%2)%{1to16%}, %1, %0|vpdpbusd %0, %1, dword ptr [%2+%c3]%{1to16%}}"
          : "+v"(sum)
          : "v"(bytes), "r"(from<kT>(at)), "i"(kBy));
    else
      asm("{vpdpbusd %c3(%2,%4,%c5)%{1to16%}, %1, %0|vpdpbusd %0, %1, dword ptr [%2+%4*%c5+%c3]%{1to16%}}"
          : "+v"(sum)
          : "v"(bytes), "r"(from<kT>(at)), "i"(kBy), "r"(distance<kT % 8>()), "i"(kTimes<kT % 8>));
    return sum;
  }
};

#include "fours.inc"

#include "bytes.inc"

#include "groups.inc"

/// Even levels, multiplied where the codes are, bits above others: v = code * 2^bit fits a byte, and VNNI adds in 32
/// bits. The codes of each bit have a sum of their own, which is shifted once for the whole group.
template <int kBits>
struct InPlace {
  static constexpr int kSums = kBits == 2 ? 4 : 2;
  static constexpr int kShortSums = kSums;
  static constexpr int kUnit = 1;
  static constexpr bool kWide = true;

  [[SINQ_TARGET, gnu::always_inline]] explicit inline InPlace(const ByteLevels&) noexcept {}

  template <int kN>
  [[SINQ_TARGET, gnu::always_inline]] inline Ints bytes(const Half<kBits>& half) const noexcept {
    constexpr unsigned kMask = 0x0101'0101u * ((1u << kBits) - 1) << Half<kBits>::template kBitOf<kN>;
    return bits_and(half.template word<kN>(), all_ints(static_cast<int>(kMask)));
  }
  [[SINQ_TARGET, gnu::always_inline]] static inline Ints total(const Ints (&sum)[kSums]) noexcept {
    if constexpr (kBits == 2)
      return add_ints(add_ints(shift<-6>(sum[0]), shift<-4>(sum[1])), add_ints(shift<-2>(sum[2]), sum[3]));
    else
      return add_ints(shift<kBits - 8>(sum[0]), shift<2 * kBits - 8>(sum[1]));
  }
};

/// Even levels of 2 or 4 bits as v, at the top of their bytes, which takes no more shifts than at the bottom: one sum,
/// with nothing left to shift.
template <int kBits>
struct AtTop {
  static constexpr int kSums = 1;
  static constexpr int kShortSums = 1;
  static constexpr int kUnit = 1 << (8 - kBits);
  static constexpr bool kWide = true;

  [[SINQ_TARGET, gnu::always_inline]] explicit inline AtTop(const ByteLevels&) noexcept {}

  template <int kN>
  [[SINQ_TARGET, gnu::always_inline]] inline Ints bytes(const Half<kBits>& half) const noexcept {
    constexpr unsigned kMask = 0x0101'0101u * (256 - kUnit);
    return bits_and(shift<Half<kBits>::template kBitOf<kN> - (8 - kBits)>(half.template word<kN>()),
                    all_ints(static_cast<int>(kMask)));
  }
  [[SINQ_TARGET, gnu::always_inline]] static inline Ints total(const Ints (&sum)[kSums]) noexcept { return sum[0]; }
};

}  // namespace sinq::inline SINQ_ABI::detail::matmul::avx512

// --- tables, with VBMI ---------------------------------------------------------------------------------------------

#undef SINQ_TARGET
#define SINQ_TARGET gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,fma")

namespace sinq::inline SINQ_ABI::detail::matmul::avx512::vbmi {

#include "fours.inc"

#include "groups.inc"

/// Codes looked up where they are: a permutation of a table of 64 bytes takes the low six bits of every byte, and the
/// table of each position has the same level whatever the others of these bits are. Codes that reach into the upper two
/// bits are shifted first.
template <int kBits, int kChains>
struct Permuted {
  static constexpr int kSums = kChains;
  static constexpr int kShortSums = 1;
  static constexpr int kUnit = 1;
  static constexpr bool kWide = true;
  static constexpr int kTables = 6 / kBits;
  Ints tables[kTables];

  [[SINQ_TARGET, gnu::always_inline]] explicit inline Permuted(const ByteLevels& levels) noexcept {
    SINQ_UNROLL for (int t = 0; t < kTables; ++t) {
      std::uint8_t table[64];
      for (int k = 0; k < 64; ++k) table[k] = levels.table[(k >> t * kBits) & ((1 << kBits) - 1)];
      tables[t] = load_ints(table);
    }
  }

  template <int kN>
  [[SINQ_TARGET, gnu::always_inline]] inline Ints bytes(const Half<kBits>& half) const noexcept {
    constexpr int kBit = Half<kBits>::template kBitOf<kN>;
    if constexpr (kBit + kBits <= 6)
      return _mm512_maskz_permutexvar_epi8(~__mmask64{0}, half.template word<kN>(), tables[kBit / kBits]);
    else
      return _mm512_maskz_permutexvar_epi8(~__mmask64{0}, half.template four<kN>(), tables[0]);
  }
  template <int kOf>
  [[SINQ_TARGET, gnu::always_inline]] static inline Ints total(const Ints (&sum)[kOf]) noexcept {
    return kOf == 2 ? add_ints(sum[0], sum[kOf - 1]) : sum[0];
  }
};

}  // namespace sinq::inline SINQ_ABI::detail::matmul::avx512::vbmi

#undef SINQ_TARGET
#endif
