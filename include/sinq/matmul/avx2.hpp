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
inline constexpr std::int64_t kPrefetch = 256;  // bytes ahead of the codes in use

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

/// Every lane k bits to the right, or -k to the left.
template <int k>
[[SINQ_TARGET, gnu::always_inline]] inline Ints shift(Ints v) noexcept {
  if constexpr (k > 0) return _mm256_srli_epi32(v, k);
  if constexpr (k < 0) return _mm256_slli_epi32(v, -k);
  return v;
}

/// The low `low` bits of every byte of a, the rest of b.
template <int low>
[[SINQ_TARGET, gnu::always_inline]] inline Ints merge(Ints a, Ints b) noexcept {
  const Ints mask = _mm256_set1_epi32(0x0101'0101 * ((1 << low) - 1));
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

/// kWidth floats of a strip's auxiliaries, from row `row` on.
template <Aux kAux>
[[SINQ_TARGET, gnu::always_inline]] inline Floats load_aux(const std::uint8_t* p, int row) noexcept {
  p += row * bits_of(kAux) / 8;
  if constexpr (kAux == Aux::f32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  if constexpr (kAux == Aux::f16) return _mm256_cvtph_ps(halves);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

/// Integers of n bits, from row `row` on. Reads 16 bytes: codes follow the auxiliaries.
template <int n, bool kSigned>
[[SINQ_TARGET, gnu::always_inline]] inline Ints load_integers(const std::uint8_t* p, int row) noexcept {
  const Ints bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + row * n / 8)));
  const Ints pairs = _mm256_shuffle_epi8(bytes, load_ints(kBitFields<n>.bytes));
  const Ints top = _mm256_sllv_epi32(pairs, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kBitFields<n>.left)));
  if constexpr (kSigned) return _mm256_srai_epi32(top, 32 - n);
  return _mm256_srli_epi32(top, 32 - n);
}

#include "exact.inc"

// --- products of bytes ---------------------------------------------------------------------------------------------

[[SINQ_TARGET, gnu::always_inline]] inline Ints zero_ints() noexcept {
  return _mm256_setzero_si256();
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints add_ints(Ints a, Ints b) noexcept {
  return _mm256_add_epi32(a, b);
}
/// Four bytes in every lane.
[[SINQ_TARGET, gnu::always_inline]] inline Ints broadcast_four(const std::int8_t* p) noexcept {
  std::int32_t four = 0;
  std::memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}
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
/// sum + the four products of unsigned and signed bytes of every lane. Two products add up in 16 bits, which holds
/// 2 * 63 * 127 but not 2 * 255 * 127: wide bytes are multiplied in two halves of 4 bits.
template <bool kWide>
[[SINQ_TARGET, gnu::always_inline]] inline Ints dot(Ints sum, Ints bytes, Ints x) noexcept {
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
[[SINQ_TARGET, gnu::always_inline]] inline Floats larger_magnitude(Floats a, Floats b) noexcept {
  const Ints magnitude = _mm256_and_si256(_mm256_castps_si256(b), _mm256_set1_epi32(0x7fff'ffff));
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), magnitude));  // ordered as integers
}
/// 16 floats times `factor`, below 128 in magnitude, to bytes; and what they became, as the floats of two sums.
[[SINQ_TARGET, gnu::always_inline]] inline Floats round_16(const float* x, float factor, std::int8_t* to) noexcept {
  const Ints a = _mm256_cvtps_epi32(multiply(load(x), all(factor)));
  const Ints b = _mm256_cvtps_epi32(multiply(load(x + 8), all(factor)));
  const Ints words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
  return to_floats(add_ints(a, b));
}

#include "fast.inc"

}  // namespace sinq::inline SINQ_ABI::detail::matmul::avx2

#undef SINQ_TARGET
#endif
