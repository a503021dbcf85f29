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
inline constexpr int kTokensAtOnce = 8;         // accumulators of multiply_panel, enough to hide the latency of an fma
inline constexpr std::int64_t kPrefetch = 256;  // bytes ahead of the codes in use
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
[[SINQ_TARGET, gnu::always_inline]] inline Ints load_ints(const std::uint8_t* p) noexcept {
  return _mm512_loadu_si512(p);
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

/// Every lane k bits to the right, or -k to the left.
template <int k>
[[SINQ_TARGET, gnu::always_inline]] inline Ints shift(Ints v) noexcept {
  if constexpr (k > 0) return _mm512_maskz_srli_epi32(kAll, v, k);
  if constexpr (k < 0) return _mm512_maskz_slli_epi32(kAll, v, -k);
  return v;
}

/// The low `low` bits of every byte of a, the rest of b.
template <int low>
[[SINQ_TARGET, gnu::always_inline]] inline Ints merge(Ints a, Ints b) noexcept {
  return _mm512_ternarylogic_epi32(_mm512_set1_epi32(0x0101'0101 * ((1 << low) - 1)), a, b, 0xca);
}

/// From lanes whose low bits are codes to levels. Up to 5 bits by permuting a table, which ignores the bits above.
struct Lookup {
  Floats low;
  Floats high;
  float first;

  [[SINQ_TARGET, gnu::always_inline]] explicit inline Lookup(const float* levels, int bits) noexcept
      : first(levels[0]) {
    float table[32];
    for (int k = 0; k < 32; ++k) table[k] = levels[k & ((1 << bits) - 1)];
    low = load(table);
    high = load(table + 16);
  }
};

template <int kBits, bool kTable>
[[SINQ_TARGET, gnu::always_inline]] inline Floats level(Ints v, const Lookup& lookup) noexcept {
  if constexpr (kBits <= 4) {
    return _mm512_maskz_permutexvar_ps(kAll, v, lookup.low);
  } else if constexpr (kBits == 5) {
    return _mm512_permutex2var_ps(lookup.low, v, lookup.high);
  } else {  // 2^23 + code as a float, exactly, then the level of code 0 instead of 2^23
    const Ints magic =
        _mm512_ternarylogic_epi32(v, _mm512_set1_epi32((1 << kBits) - 1), _mm512_set1_epi32(0x4b00'0000), 0xea);
    return _mm512_castsi512_ps(magic) - all(0x1p23f - lookup.first);
  }
}

/// kWidth floats of a strip's auxiliaries, from row `row` on.
template <Aux kAux>
[[SINQ_TARGET, gnu::always_inline]] inline Floats load_aux(const std::uint8_t* p, int row) noexcept {
  p += row * bits_of(kAux) / 8;
  if constexpr (kAux == Aux::f32) return _mm512_loadu_ps(p);
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  if constexpr (kAux == Aux::f16) return _mm512_maskz_cvtph_ps(kAll, halves);
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll, _mm512_maskz_cvtepu16_epi32(kAll, halves), 16));
}

/// Integers of n bits, from row `row` on. Reads 16 bytes: codes follow the auxiliaries.
template <int n, bool kSigned>
[[SINQ_TARGET, gnu::always_inline]] inline Ints load_integers(const std::uint8_t* p, int) noexcept {
  const Ints bytes = _mm512_maskz_broadcast_i32x4(kAll, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const Ints pairs = _mm512_shuffle_epi8(bytes, _mm512_loadu_si512(kBitFields<n>.bytes));
  const Ints top = _mm512_maskz_sllv_epi32(kAll, pairs, _mm512_loadu_si512(kBitFields<n>.left));
  if constexpr (kSigned) return _mm512_maskz_srai_epi32(kAll, top, 32 - n);
  return _mm512_maskz_srli_epi32(kAll, top, 32 - n);
}

#include "exact.inc"

}  // namespace sinq::inline SINQ_ABI::detail::matmul::avx512

// --- products of bytes, with VNNI ----------------------------------------------------------------------------------

#undef SINQ_TARGET
#define SINQ_TARGET gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")

namespace sinq::inline SINQ_ABI::detail::matmul::avx512 {

[[nodiscard]] inline bool has_byte_products() noexcept {
  return __builtin_cpu_supports("avx512vnni");
}

[[SINQ_TARGET, gnu::always_inline]] inline Ints zero_ints() noexcept {
  return _mm512_setzero_si512();
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints add_ints(Ints a, Ints b) noexcept {
  return _mm512_add_epi32(a, b);
}
/// Four bytes in every lane.
[[SINQ_TARGET, gnu::always_inline]] inline Ints broadcast_four(const std::int8_t* p) noexcept {
  std::int32_t four = 0;
  std::memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}
template <int kBits>
[[SINQ_TARGET, gnu::always_inline]] inline Ints low_bits_of_bytes(Ints v) noexcept {
  return _mm512_and_si512(v, _mm512_set1_epi32(0x0101'0101 * ((1 << kBits) - 1)));
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints load_table(const std::uint8_t* table) noexcept {
  return _mm512_maskz_broadcast_i32x4(kAll, _mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints lookup_bytes(Ints table, Ints index) noexcept {
  return _mm512_shuffle_epi8(table, index);
}
/// sum + the four products of unsigned and signed bytes of every lane.
template <bool kWide>
[[SINQ_TARGET, gnu::always_inline]] inline Ints dot(Ints sum, Ints bytes, Ints x) noexcept {
  return _mm512_dpbusd_epi32(sum, bytes, x);
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats larger_magnitude(Floats a, Floats b) noexcept {
  const Ints magnitude = _mm512_and_si512(_mm512_castps_si512(b), _mm512_set1_epi32(0x7fff'ffff));
  return _mm512_castsi512_ps(_mm512_maskz_max_epi32(kAll, _mm512_castps_si512(a), magnitude));  // ordered as integers
}
/// 16 floats times `factor`, below 128 in magnitude, to bytes; and what they became, as floats.
[[SINQ_TARGET, gnu::always_inline]] inline Floats round_16(const float* x, float factor, std::int8_t* to) noexcept {
  const Ints rounded = _mm512_maskz_cvtps_epi32(kAll, multiply(load(x), all(factor)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_maskz_cvtepi32_epi8(kAll, rounded));
  return to_floats(rounded);
}

#include "fast.inc"

}  // namespace sinq::inline SINQ_ABI::detail::matmul::avx512

#undef SINQ_TARGET
#endif
