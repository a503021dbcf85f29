// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "job.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

// AVX2 with FMA and F16C (which no processor with AVX2 lacks): a strip's 16 rows in two registers, side by side, so
// that they share what is the same for all rows (an activation, a mask) and the memory is read in one go.

#define SINQ_TARGET gnu::target("avx2,fma,f16c")

namespace sinq::inline SINQ_ABI::detail::matmul::avx2 {

struct Floats {
  __m256 upper;  // rows 0 to 7
  __m256 lower;  // rows 8 to 15
};
struct Ints {
  __m256i upper;
  __m256i lower;
};
inline constexpr int kWidth = 16;
inline constexpr int kTokensAtOnce = 4;

[[SINQ_TARGET, gnu::always_inline]] inline Floats all(float f) noexcept {
  const __m256 v = _mm256_set1_ps(f);
  return {v, v};
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats load(const float* p) noexcept {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
[[SINQ_TARGET, gnu::always_inline]] inline void store(float* p, Floats v) noexcept {
  _mm256_storeu_ps(p, v.upper);
  _mm256_storeu_ps(p + 8, v.lower);
}
/// Once: g++ 12 would read the line anew for each of its codes.
[[SINQ_TARGET, gnu::always_inline]] inline Ints load_ints(const std::uint8_t* p) noexcept {
  Ints v = {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
  asm("" : "+x"(v.upper), "+x"(v.lower));
  return v;
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats plus(Floats a, Floats b) noexcept {
  return {a.upper + b.upper, a.lower + b.lower};
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats multiply(Floats a, Floats b) noexcept {
  return {a.upper * b.upper, a.lower * b.lower};
}
/// a b + c
[[SINQ_TARGET, gnu::always_inline]] inline Floats multiply_add(Floats a, Floats b, Floats c) noexcept {
  return {_mm256_fmadd_ps(a.upper, b.upper, c.upper), _mm256_fmadd_ps(a.lower, b.lower, c.lower)};
}
/// c - a b
[[SINQ_TARGET, gnu::always_inline]] inline Floats minus_product(Floats c, Floats a, Floats b) noexcept {
  return {_mm256_fnmadd_ps(a.upper, b.upper, c.upper), _mm256_fnmadd_ps(a.lower, b.lower, c.lower)};
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats to_floats(Ints v) noexcept {
  return {_mm256_cvtepi32_ps(v.upper), _mm256_cvtepi32_ps(v.lower)};
}

/// Every lane kBy bits to the right, or -kBy to the left.
template <int kBy>
[[SINQ_TARGET, gnu::always_inline]] inline Ints shift(Ints v) noexcept {
  if constexpr (kBy > 0) return {_mm256_srli_epi32(v.upper, kBy), _mm256_srli_epi32(v.lower, kBy)};
  if constexpr (kBy < 0) return {_mm256_slli_epi32(v.upper, -kBy), _mm256_slli_epi32(v.lower, -kBy)};
  return v;
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints all_ints(int k) noexcept {
  const __m256i v = _mm256_set1_epi32(k);
  return {v, v};
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints add_ints(Ints a, Ints b) noexcept {
  return {_mm256_add_epi32(a.upper, b.upper), _mm256_add_epi32(a.lower, b.lower)};
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints bits_and(Ints a, Ints b) noexcept {
  return {_mm256_and_si256(a.upper, b.upper), _mm256_and_si256(a.lower, b.lower)};
}
/// The low kLow bits of every byte of a, the rest of b.
template <int kLow>
[[SINQ_TARGET, gnu::always_inline]] inline Ints merge(Ints a, Ints b) noexcept {
  const Ints low = bits_and(all_ints(0x0101'0101 * ((1 << kLow) - 1)), a);
  const Ints rest = bits_and(all_ints(~(0x0101'0101 * ((1 << kLow) - 1))), b);
  return {_mm256_or_si256(low.upper, rest.upper), _mm256_or_si256(low.lower, rest.lower)};
}

/// From lanes whose low bits are codes to levels. Eight levels by permuting a table, which ignores the bits above.
struct Lookup {
  __m256 low;
  __m256 high;
  float first;

  [[SINQ_TARGET, gnu::always_inline]] explicit inline Lookup(const float* levels, int bits) noexcept
      : first(levels[0]) {
    float table[16];
    for (int k = 0; k < 16; ++k) table[k] = levels[k & ((1 << bits) - 1)];
    low = _mm256_loadu_ps(table);
    high = _mm256_loadu_ps(table + 8);
  }
};

template <int kBits, bool kTable>
[[SINQ_TARGET, gnu::always_inline]] inline __m256 level(__m256i v, const Lookup& lookup) noexcept {
  if constexpr (kBits <= 3) {
    return _mm256_permutevar8x32_ps(lookup.low, v);
  } else if constexpr (kTable) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(lookup.low, v), _mm256_permutevar8x32_ps(lookup.high, v),
                            _mm256_castsi256_ps(_mm256_slli_epi32(v, 28)));  // by bit 3
  } else {  // 2^23 + code as a float, exactly, then the level of code 0 instead of 2^23
    const __m256i code = _mm256_and_si256(v, _mm256_set1_epi32((1 << kBits) - 1));
    return _mm256_castsi256_ps(_mm256_or_si256(code, _mm256_set1_epi32(0x4b00'0000))) -
           _mm256_set1_ps(0x1p23f - lookup.first);
  }
}
template <int kBits, bool kTable>
[[SINQ_TARGET, gnu::always_inline]] inline Floats level(Ints v, const Lookup& lookup) noexcept {
  return {level<kBits, kTable>(v.upper, lookup), level<kBits, kTable>(v.lower, lookup)};
}

/// kWidth numbers of 16 bits.
[[SINQ_TARGET, gnu::always_inline]] inline Floats load_f16(const std::uint8_t* p) noexcept {
  const auto* const at = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))};
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats load_bf16(const std::uint8_t* p) noexcept {
  const auto* const at = reinterpret_cast<const __m128i*>(p);
  const Ints wide =
      shift<-16>({_mm256_cvtepu16_epi32(_mm_loadu_si128(at)), _mm256_cvtepu16_epi32(_mm_loadu_si128(at + 1))});
  return {_mm256_castsi256_ps(wide.upper), _mm256_castsi256_ps(wide.lower)};
}
[[SINQ_TARGET, gnu::always_inline]] inline void store_f16(std::uint8_t* p, Floats v) noexcept {
  auto* const at = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(at, _mm256_cvtps_ph(v.upper, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(at + 1, _mm256_cvtps_ph(v.lower, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/// Every lane shifted by what the same lane of `count` says.
[[SINQ_TARGET, gnu::always_inline]] inline Ints right_by(Ints v, Ints count) noexcept {
  return {_mm256_srlv_epi32(v.upper, count.upper), _mm256_srlv_epi32(v.lower, count.lower)};
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints arithmetic_right_by(Ints v, Ints count) noexcept {
  return {_mm256_srav_epi32(v.upper, count.upper), _mm256_srav_epi32(v.lower, count.lower)};
}
/// Integers that every lane holds from its lowest bit on, one after the other, shifted to the left. With so few
/// registers, all that changes from one to the next is an address.
struct Fields {
  __m256i mask;
  __m256i left;
  Ints line;
  const std::int32_t* first;  // the lowest bits of integers
  const std::int32_t* place;

  [[SINQ_TARGET, gnu::always_inline]] inline Fields(int bits, int shift) noexcept
      : mask(_mm256_set1_epi32((1 << bits) - 1)),
        left(_mm256_set1_epi32(shift)),
        line(all_ints(0)),
        first(kPlaces[bits - 4]),
        place(first) {}
  [[SINQ_TARGET, gnu::always_inline]] inline void fill(Ints v) noexcept {
    line = v;
    place = first;
  }
  [[SINQ_TARGET, gnu::always_inline]] inline Ints next() noexcept {
    const Ints v = bits_and(right_by(line, all_ints(*place++)), {mask, mask});
    return {_mm256_sllv_epi32(v.upper, left), _mm256_sllv_epi32(v.lower, left)};
  }

  static constexpr std::int32_t kPlaces[5][8] = {
      {0, 4, 8, 12, 16, 20, 24, 28}, {0, 5, 10, 15, 20, 25}, {0, 6, 12, 18, 24}, {0, 7, 14, 21}, {0, 8, 16, 24}};
};

#include "reading.inc"

#include "floats.inc"

// --- products of bytes ---------------------------------------------------------------------------------------------

template <int kBits>
[[SINQ_TARGET, gnu::always_inline]] inline Ints low_bits_of_bytes(Ints v) noexcept {
  return bits_and(v, all_ints(0x0101'0101 * ((1 << kBits) - 1)));
}
using Table = __m256i;  // of 16 bytes, for all rows
[[SINQ_TARGET, gnu::always_inline]] inline Table load_table(const std::uint8_t* table) noexcept {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints lookup_bytes(Table table, Ints index) noexcept {
  return {_mm256_shuffle_epi8(table, index.upper), _mm256_shuffle_epi8(table, index.lower)};
}
[[SINQ_TARGET, gnu::always_inline]] inline __m256 larger_magnitude(__m256 a, __m256 b) noexcept {
  const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(b), _mm256_set1_epi32(0x7fff'ffff));
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), magnitude));  // ordered as integers
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats larger_magnitude(Floats a, Floats b) noexcept {
  return {larger_magnitude(a.upper, b.upper), larger_magnitude(a.lower, b.lower)};
}
/// To the nearest integer.
[[SINQ_TARGET, gnu::always_inline]] inline Ints to_ints(Floats v) noexcept {
  return {_mm256_cvtps_epi32(v.upper), _mm256_cvtps_epi32(v.lower)};
}
/// The low bytes of kWidth lanes, four to a word.
[[SINQ_TARGET, gnu::always_inline]] inline void low_bytes(Ints v, std::int32_t* words) noexcept {
  const __m256i low = _mm256_set1_epi32(0x0c08'0400);
  const Ints bytes = {_mm256_shuffle_epi8(v.upper, low), _mm256_shuffle_epi8(v.lower, low)};
  words[0] = _mm256_extract_epi32(bytes.upper, 0);
  words[1] = _mm256_extract_epi32(bytes.upper, 4);
  words[2] = _mm256_extract_epi32(bytes.lower, 0);
  words[3] = _mm256_extract_epi32(bytes.lower, 4);
}
/// Keeps sums in the order in which they are written: g++ 12 would add up products first, which takes more registers.
[[SINQ_TARGET, gnu::always_inline]] inline Ints keep_order(Ints sum) noexcept {
  asm("" : "+x"(sum.upper), "+x"(sum.lower));
  return sum;
}
/// Of every 16 bits.
[[SINQ_TARGET, gnu::always_inline]] inline Ints minus_shorts(Ints v) noexcept {
  return {_mm256_sub_epi16(_mm256_setzero_si256(), v.upper), _mm256_sub_epi16(_mm256_setzero_si256(), v.lower)};
}
/// sum + the two products of signed 16-bit numbers of every lane.
[[SINQ_TARGET, gnu::always_inline]] inline Ints dot_of_shorts(Ints sum, Ints a, Ints b) noexcept {
  return keep_order(add_ints(sum, {_mm256_madd_epi16(a.upper, b.upper), _mm256_madd_epi16(a.lower, b.lower)}));
}
/// Four bytes, the same in every lane.
[[SINQ_TARGET, gnu::always_inline]] inline Ints broadcast(const std::int8_t* four) noexcept {
  std::int32_t word = 0;
  std::memcpy(&word, four, 4);
  return all_ints(word);
}

#include "fours_x86.inc"

#include "integers.inc"

namespace maddubs {
/// In every 16 bits, the two products of unsigned bytes and signed ones.
[[SINQ_TARGET, gnu::always_inline]] inline Ints products(Ints bytes, Ints x) noexcept {
  return {_mm256_maddubs_epi16(bytes.upper, x.upper), _mm256_maddubs_epi16(bytes.lower, x.lower)};
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints add_shorts(Ints a, Ints b) noexcept {
  return keep_order({_mm256_add_epi16(a.upper, b.upper), _mm256_add_epi16(a.lower, b.lower)});
}

/// Codes (integers.inc) for vpmaddubsw, which adds the products of two bytes up in 16 bits. So small are they that
/// those of several fours add up in 16 bits, too, before they are widened to 32:
///
///   up to 4 bits      8 * 2 * 15 * 128 < 2^15: the fours of a unit
///   5 bits            4 * 2 * 31 * 128 < 2^15: those of half a unit
///   6 bits            2 * 2 * 63 * 128 < 2^15
///   8 bits, a table   4 * 2 * 255 * 15 < 2^15: activations in two digits, 0 ... 15 and -8 ... 7
///
/// Sums are kUnit times those of what is multiplied.
template <int kBits, bool kTable, int kUnitOfSums>
struct Shorts {
  static constexpr int kSums = 1;
  static constexpr int kShortSums = 1;
  static constexpr int kUnit = kUnitOfSums;
  static constexpr bool kByUnits = true;
  static constexpr Spread kSpread = kTable || kBits == 8 ? Spread::digits : Spread::bytes;
  Table table;

  [[SINQ_TARGET, gnu::always_inline]] explicit inline Shorts(const ByteLevels& levels) noexcept
      : table(load_table(levels.table)) {}
  [[SINQ_TARGET, gnu::always_inline]] static inline Ints total(const Ints (&sum)[1]) noexcept { return sum[0]; }

  /// Activations begin at `at`.
  template <int kPlanes, int kTokens>
  [[SINQ_TARGET, gnu::always_inline]] inline void add_half(Ints (&sum)[kTokens][kPlanes][1], const Half<kBits>& half,
                                                           const Tokens<kTokens>& x, std::int64_t at) const noexcept {
    constexpr int kMost = std::min(kFours, 4);
    Ints shorts[kTokens][kPlanes][kDigits];
    add_two<0, kMost>(shorts, sum, half, x, at);
    add_two<2, kMost>(shorts, sum, half, x, at);
  }
  template <int kPlanes, int kTokens>
  [[SINQ_TARGET, gnu::always_inline]] inline void add_unit(Ints (&sum)[kTokens][kPlanes][1], const std::uint8_t* unit,
                                                           const Tokens<kTokens>& x, std::int64_t at) const noexcept {
    Ints shorts[kTokens][kPlanes][kDigits];
    const Half<kBits> even(unit, false);
    add_two<0, kFours>(shorts, sum, even, x, at);
    add_two<2, kFours>(shorts, sum, even, x, at);
    const Half<kBits> odd(unit, true);
    add_two<4, kFours>(shorts, sum, odd, x, at);
    add_two<6, kFours>(shorts, sum, odd, x, at);
  }

 private:
  static constexpr int kDigits = size_of(kSpread);
  static constexpr int kFours = kBits == 6 ? 2 : kBits <= 4 && !kTable ? 8 : 4;  // that add up in 16 bits

  /// Fours kN and kN + 1 of a unit, which are in `half`; kMost of them add up in `shorts`.
  template <int kN, int kMost, int kPlanes, int kTokens>
  [[SINQ_TARGET, gnu::always_inline]] inline void add_two(Ints (&shorts)[kTokens][kPlanes][kDigits],
                                                          Ints (&sum)[kTokens][kPlanes][1], const Half<kBits>& half,
                                                          const Tokens<kTokens>& x, std::int64_t at) const noexcept {
    const Ints first = bytes_of<kBits, kTable, kN % 4>(half, table);
    const Ints second = bytes_of<kBits, kTable, kN % 4 + 1>(half, table);
    SINQ_UNROLL for (int t = 0; t < kTokens; ++t) SINQ_UNROLL for (int p = 0; p < kPlanes; ++p)
        SINQ_UNROLL for (int d = 0; d < kDigits; ++d) {
      const std::int8_t* const from = x.of[t] + at + 4 * ((kN * kPlanes + p) * kDigits + d);
      Ints& s = shorts[t][p][d];
      const Ints product = products(first, broadcast(from));
      s = kN % kMost == 0 ? product : add_shorts(s, product);
      s = add_shorts(s, products(second, broadcast(from + 4 * kPlanes * kDigits)));
      if constexpr (kN % kMost == kMost - 2)
        sum[t][p][0] = dot_of_shorts(sum[t][p][0], s, all_ints(0x1'0001 * (d == 0 ? kUnit : 16 * kUnit)));
    }
  }
};

/// Codes for vpmaddwd, which multiplies numbers of 16 bits: for several tokens, which share what it takes to make words
/// of bytes, where Shorts multiplies twice, too.
template <int kBits, bool kTable>
struct ByWords {
  static constexpr int kSums = 1;
  static constexpr int kShortSums = 1;
  static constexpr int kUnit = 1;
  static constexpr bool kByUnits = false;
  static constexpr Spread kSpread = Spread::words;
  Table table;

  [[SINQ_TARGET, gnu::always_inline]] explicit inline ByWords(const ByteLevels& levels) noexcept
      : table(load_table(levels.table)) {}
  [[SINQ_TARGET, gnu::always_inline]] static inline Ints total(const Ints (&sum)[1]) noexcept { return sum[0]; }

  /// Activations begin at `at`.
  template <int kTokens>
  [[SINQ_TARGET, gnu::always_inline]] inline void add_half(Ints (&sum)[kTokens][1][1], const Half<kBits>& half,
                                                           const Tokens<kTokens>& x, std::int64_t at) const noexcept {
    add_four<0>(sum, half, x, at);
    add_four<1>(sum, half, x, at);
    add_four<2>(sum, half, x, at);
    add_four<3>(sum, half, x, at);
  }

 private:
  template <int kN, int kTokens>
  [[SINQ_TARGET, gnu::always_inline]] inline void add_four(Ints (&sum)[kTokens][1][1], const Half<kBits>& half,
                                                           const Tokens<kTokens>& x, std::int64_t at) const noexcept {
    const Ints bytes = bytes_of<kBits, kTable, kN>(half, table);
    const Ints even = bits_and(bytes, all_ints(0x00ff'00ff));
    const Ints odd = {_mm256_srli_epi16(bytes.upper, 8), _mm256_srli_epi16(bytes.lower, 8)};
    SINQ_UNROLL for (int t = 0; t < kTokens; ++t) sum[t][0][0] =
        dot_of_shorts(sum[t][0][0], even, broadcast(x.of[t] + at + 8 * kN));
    SINQ_UNROLL for (int t = 0; t < kTokens; ++t) sum[t][0][0] =
        dot_of_shorts(sum[t][0][0], odd, broadcast(x.of[t] + at + 8 * kN + 4));
  }
};

#include "bytes.inc"

#include "groups.inc"
}  // namespace maddubs

namespace vnni {
/// In one instruction. In assembly, since an attribute for AVX-VNNI would keep what is inlined here out.
[[SINQ_TARGET, gnu::always_inline]] inline __m256i vpdpbusd(__m256i sum, __m256i bytes, __m256i x) noexcept {
  asm("{%{vex%} vpdpbusd %2, %1, %0|%{vex%} vpdpbusd %0, %1, %2}" : "+x"(sum) : "x"(bytes), "x"(x));
  return sum;
}
/// For tests: where that is missing, the same by halves of 4 bits, whose products add up in 16. Inlined, this would
/// make the kernels take three times as long to compile.
[[SINQ_TARGET, gnu::noinline]] inline __m256i vpdpbusd_or_stand_in(__m256i sum, __m256i bytes, __m256i x) noexcept {
  if (core::has_avx_vnni()) return vpdpbusd(sum, bytes, x);
  const __m256i low = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(15));
  const __m256i ones = _mm256_madd_epi16(_mm256_maddubs_epi16(low, x), _mm256_set1_epi16(1));
  const __m256i sixteens = _mm256_madd_epi16(_mm256_maddubs_epi16(high, x), _mm256_set1_epi16(16));
  return _mm256_add_epi32(sum, _mm256_add_epi32(ones, sixteens));
}
[[SINQ_TARGET, gnu::always_inline]] inline __m256i dot(__m256i sum, __m256i bytes, __m256i x) noexcept {
  if constexpr (core::kStandIns) return vpdpbusd_or_stand_in(sum, bytes, x);
  return vpdpbusd(sum, bytes, x);
}
/// sum + the four products of the unsigned bytes of every lane and four signed ones.
template <bool kWide>
[[SINQ_TARGET, gnu::always_inline]] inline Ints dot(Ints sum, Ints bytes, const std::int8_t* four) noexcept {
  const Ints x = broadcast(four);
  return {dot(sum.upper, bytes.upper, x.upper), dot(sum.lower, bytes.lower, x.lower)};
}

#include "fours.inc"

#include "bytes.inc"  // NOLINT(readability-duplicate-include): once in every namespace
}  // namespace vnni
}  // namespace sinq::inline SINQ_ABI::detail::matmul::avx2

#undef SINQ_TARGET
#endif
