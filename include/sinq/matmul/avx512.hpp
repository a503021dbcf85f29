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
inline constexpr int kTokensAtOnce = 8;  // accumulators of multiply_panel, enough to hide the latency of an fma
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

/// From lanes whose low 4 bits are codes to levels, by permuting a table, which ignores the bits above.
struct Lookup {
  Floats table;

  [[SINQ_TARGET, gnu::always_inline]] explicit inline Lookup(const float* levels, int bits) noexcept {
    float all[16];
    for (int k = 0; k < 16; ++k) all[k] = levels[k & ((1 << bits) - 1)];
    table = load(all);
  }
};

template <int kBits, bool kTable>
[[SINQ_TARGET, gnu::always_inline]] inline Floats level(Ints v, const Lookup& lookup) noexcept {
  static_assert(kBits <= 4);
  return _mm512_maskz_permutexvar_ps(kAll, v, lookup.table);
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
[[SINQ_TARGET, gnu::always_inline]] inline Ints exclusive_or(Ints a, Ints b) noexcept {
  return _mm512_xor_si512(a, b);
}
/// Every lane shifted by what the same lane of `count` says.
[[SINQ_TARGET, gnu::always_inline]] inline Ints right_by(Ints v, Ints count) noexcept {
  return _mm512_maskz_srlv_epi32(kAll, v, count);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints arithmetic_right_by(Ints v, Ints count) noexcept {
  return _mm512_maskz_srav_epi32(kAll, v, count);
}

#include "reading.inc"

#include "floats.inc"

}  // namespace sinq::inline SINQ_ABI::detail::matmul::avx512

// --- products of bytes, with VNNI ----------------------------------------------------------------------------------

#undef SINQ_TARGET
#define SINQ_TARGET gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")

namespace sinq::inline SINQ_ABI::detail::matmul::avx512 {

[[nodiscard]] inline bool has_byte_products() noexcept {
  return __builtin_cpu_supports("avx512vnni");
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

#include "bytes.inc"

}  // namespace sinq::inline SINQ_ABI::detail::matmul::avx512

#undef SINQ_TARGET
#endif
