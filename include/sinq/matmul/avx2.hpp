// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "job.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

// AVX2 with FMA and F16C (which no processor with AVX2 lacks): a strip's 16 rows in two registers, one after the other.

#define SINQ_TARGET gnu::target("avx2,fma,f16c")

namespace sinq::inline SINQ_ABI::detail::matmul::avx2 {

using Floats = __m256;
using Ints = __m256i;
inline constexpr int kWidth = 8;
inline constexpr int kTokensAtOnce = 4;

[[SINQ_TARGET, gnu::always_inline]] inline Floats all(float f) noexcept {
  return _mm256_set1_ps(f);
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats load(const float* p) noexcept {
  return _mm256_loadu_ps(p);
}
[[SINQ_TARGET, gnu::always_inline]] inline void store(float* p, Floats v) noexcept {
  _mm256_storeu_ps(p, v);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints load_ints(const std::uint8_t* p) noexcept {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats plus(Floats a, Floats b) noexcept {
  return a + b;
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats multiply(Floats a, Floats b) noexcept {
  return a * b;
}
/// a b + c
[[SINQ_TARGET, gnu::always_inline]] inline Floats multiply_add(Floats a, Floats b, Floats c) noexcept {
  return _mm256_fmadd_ps(a, b, c);
}
/// c - a b
[[SINQ_TARGET, gnu::always_inline]] inline Floats minus_product(Floats c, Floats a, Floats b) noexcept {
  return _mm256_fnmadd_ps(a, b, c);
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats to_floats(Ints v) noexcept {
  return _mm256_cvtepi32_ps(v);
}

/// Every lane kBy bits to the right, or -kBy to the left.
template <int kBy>
[[SINQ_TARGET, gnu::always_inline]] inline Ints shift(Ints v) noexcept {
  if constexpr (kBy > 0) return _mm256_srli_epi32(v, kBy);
  if constexpr (kBy < 0) return _mm256_slli_epi32(v, -kBy);
  return v;
}

/// The low kLow bits of every byte of a, the rest of b.
template <int kLow>
[[SINQ_TARGET, gnu::always_inline]] inline Ints merge(Ints a, Ints b) noexcept {
  const Ints mask = _mm256_set1_epi32(0x0101'0101 * ((1 << kLow) - 1));
  return _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b));
}

/// From lanes whose low bits are codes to levels. Eight levels by permuting a table, which ignores the bits above.
struct Lookup {
  Floats low;
  Floats high;
  float first;

  [[SINQ_TARGET, gnu::always_inline]] explicit inline Lookup(const float* levels, int bits) noexcept
      : first(levels[0]) {
    float table[16];
    for (int k = 0; k < 16; ++k) table[k] = levels[k & ((1 << bits) - 1)];
    low = load(table);
    high = load(table + 8);
  }
};

template <int kBits, bool kTable>
[[SINQ_TARGET, gnu::always_inline]] inline Floats level(Ints v, const Lookup& lookup) noexcept {
  if constexpr (kBits <= 3) {
    return _mm256_permutevar8x32_ps(lookup.low, v);
  } else if constexpr (kTable) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(lookup.low, v), _mm256_permutevar8x32_ps(lookup.high, v),
                            _mm256_castsi256_ps(_mm256_slli_epi32(v, 28)));  // by bit 3
  } else {  // 2^23 + code as a float, exactly, then the level of code 0 instead of 2^23
    const Ints code = _mm256_and_si256(v, _mm256_set1_epi32((1 << kBits) - 1));
    return _mm256_castsi256_ps(_mm256_or_si256(code, _mm256_set1_epi32(0x4b00'0000))) - all(0x1p23f - lookup.first);
  }
}

/// kWidth numbers of 16 bits.
[[SINQ_TARGET, gnu::always_inline]] inline Floats load_f16(const std::uint8_t* p) noexcept {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats load_bf16(const std::uint8_t* p) noexcept {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
[[SINQ_TARGET, gnu::always_inline]] inline void store_f16(std::uint8_t* p, Floats v) noexcept {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

[[SINQ_TARGET, gnu::always_inline]] inline Ints all_ints(int k) noexcept {
  return _mm256_set1_epi32(k);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints add_ints(Ints a, Ints b) noexcept {
  return _mm256_add_epi32(a, b);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints bits_and(Ints a, Ints b) noexcept {
  return _mm256_and_si256(a, b);
}
/// Every lane shifted by what the same lane of `count` says.
[[SINQ_TARGET, gnu::always_inline]] inline Ints right_by(Ints v, Ints count) noexcept {
  return _mm256_srlv_epi32(v, count);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints arithmetic_right_by(Ints v, Ints count) noexcept {
  return _mm256_srav_epi32(v, count);
}

#include "reading.inc"

#include "floats.inc"

// --- products of bytes ---------------------------------------------------------------------------------------------

template <int kBits>
[[SINQ_TARGET, gnu::always_inline]] inline Ints low_bits_of_bytes(Ints v) noexcept {
  return _mm256_and_si256(v, _mm256_set1_epi32(0x0101'0101 * ((1 << kBits) - 1)));
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints load_table(const std::uint8_t* table) noexcept {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints lookup_bytes(Ints table, Ints index) noexcept {
  return _mm256_shuffle_epi8(table, index);
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats larger_magnitude(Floats a, Floats b) noexcept {
  const Ints magnitude = _mm256_and_si256(_mm256_castps_si256(b), _mm256_set1_epi32(0x7fff'ffff));
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), magnitude));  // ordered as integers
}
/// To the nearest integer.
[[SINQ_TARGET, gnu::always_inline]] inline Ints to_ints(Floats v) noexcept {
  return _mm256_cvtps_epi32(v);
}
[[SINQ_TARGET, gnu::always_inline]] inline void store_ints(std::int32_t* p, Ints v) noexcept {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
}
/// The low bytes of kWidth lanes, four to a word.
[[SINQ_TARGET, gnu::always_inline]] inline void low_bytes(Ints v, std::int32_t* words) noexcept {
  const Ints bytes = _mm256_shuffle_epi8(v, _mm256_set1_epi32(0x0c08'0400));
  words[0] = _mm256_extract_epi32(bytes, 0);
  words[1] = _mm256_extract_epi32(bytes, 4);
}

#include "fours_x86.inc"

namespace maddubs {
/// sum + the four products of the unsigned bytes of every lane and four signed ones. Two products add up in 16 bits,
/// which holds 2 * 63 * 127 but not 2 * 255 * 127: wide bytes are multiplied in two halves of 4 bits.
template <bool kWide>
[[SINQ_TARGET, gnu::always_inline]] inline Ints dot(Ints sum, Ints bytes, const std::int8_t* four) noexcept {
  std::int32_t word = 0;
  std::memcpy(&word, four, 4);
  const Ints x = _mm256_set1_epi32(word);
  const Ints ones = _mm256_set1_epi16(1);
  if constexpr (kWide) {
    const Ints low = _mm256_maddubs_epi16(low_bits_of_bytes<4>(bytes), x);
    const Ints high = _mm256_maddubs_epi16(low_bits_of_bytes<4>(_mm256_srli_epi32(bytes, 4)), x);
    const Ints sixteenths = _mm256_madd_epi16(high, _mm256_set1_epi16(16));
    return add_ints(add_ints(sum, sixteenths), _mm256_madd_epi16(low, ones));
  } else {
    return add_ints(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, x), ones));
  }
}

#include "bytes.inc"
}  // namespace maddubs

namespace vnni {
/// In one instruction. In assembly, since an attribute for AVX-VNNI would keep what is inlined here out.
template <bool kWide>
[[SINQ_TARGET, gnu::always_inline]] inline Ints dot(Ints sum, Ints bytes, const std::int8_t* four) noexcept {
  std::int32_t word = 0;
  std::memcpy(&word, four, 4);
  const Ints x = _mm256_set1_epi32(word);
  if constexpr (core::kStandIns)
    asm("{%{evex%} vpdpbusd %2, %1, %0|%{evex%} vpdpbusd %0, %1, %2}" : "+x"(sum) : "x"(bytes), "x"(x));
  else
    asm("{%{vex%} vpdpbusd %2, %1, %0|%{vex%} vpdpbusd %0, %1, %2}" : "+x"(sum) : "x"(bytes), "x"(x));
  return sum;
}

#include "bytes.inc"
}  // namespace vnni
}  // namespace sinq::inline SINQ_ABI::detail::matmul::avx2

#undef SINQ_TARGET
#endif
