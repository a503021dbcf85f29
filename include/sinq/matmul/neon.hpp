// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "job.hpp"

// clang 14 shows the intrinsics of an extension only under a flag that enables it for the whole file.
#if defined(__aarch64__) && !defined(__clang__)
#include <arm_neon.h>

// ARM NEON with dot products (FEAT_DotProd, from ARMv8.2 on): a strip's 16 rows in four registers, one after the other.
// Where there is i8mm (FEAT_I8MM), which multiplies unsigned by signed bytes, it takes what dot products of signed
// bytes need three of.

#define SINQ_TARGET gnu::target("arch=armv8.2-a+dotprod")

namespace sinq::inline SINQ_ABI::detail::matmul::neon {

using Floats = float32x4_t;
using Ints = uint32x4_t;
inline constexpr int kWidth = 4;
inline constexpr int kTokensAtOnce = 4;

[[SINQ_TARGET, gnu::always_inline]] inline Floats all(float f) noexcept {
  return vdupq_n_f32(f);
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats load(const float* p) noexcept {
  return vld1q_f32(p);
}
[[SINQ_TARGET, gnu::always_inline]] inline void store(float* p, Floats v) noexcept {
  vst1q_f32(p, v);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints load_ints(const std::uint8_t* p) noexcept {
  return vreinterpretq_u32_u8(vld1q_u8(p));
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats plus(Floats a, Floats b) noexcept {
  return vaddq_f32(a, b);
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats multiply(Floats a, Floats b) noexcept {
  return vmulq_f32(a, b);
}
/// a b + c
[[SINQ_TARGET, gnu::always_inline]] inline Floats multiply_add(Floats a, Floats b, Floats c) noexcept {
  return vfmaq_f32(c, a, b);
}
/// c - a b
[[SINQ_TARGET, gnu::always_inline]] inline Floats minus_product(Floats c, Floats a, Floats b) noexcept {
  return vfmsq_f32(c, a, b);
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats to_floats(Ints v) noexcept {
  return vcvtq_f32_s32(vreinterpretq_s32_u32(v));
}

/// Every lane kBy bits to the right, or -kBy to the left.
template <int kBy>
[[SINQ_TARGET, gnu::always_inline]] inline Ints shift(Ints v) noexcept {
  if constexpr (kBy > 0) return vshrq_n_u32(v, kBy);
  if constexpr (kBy < 0) return vshlq_n_u32(v, -kBy);
  return v;
}

/// The low kLow bits of every byte of a, the rest of b.
template <int kLow>
[[SINQ_TARGET, gnu::always_inline]] inline Ints merge(Ints a, Ints b) noexcept {
  return vbslq_u32(vdupq_n_u32(0x0101'0101u * ((1u << kLow) - 1)), a, b);
}

/// From lanes whose low bits are codes to levels: the code's byte, four times and each one higher, is where the four
/// bytes of its level lie in a table of up to 64.
struct Lookup {
  uint8x16x4_t table;
  float first;

  [[SINQ_TARGET, gnu::always_inline]] explicit inline Lookup(const float* levels, int bits) noexcept
      : first(levels[0]) {
    float all[16];
    for (int k = 0; k < 16; ++k) all[k] = levels[k & ((1 << bits) - 1)];
    for (int k = 0; k < 4; ++k) table.val[k] = vreinterpretq_u8_f32(vld1q_f32(all + 4 * k));
  }
};

template <int kBits, bool kTable>
[[SINQ_TARGET, gnu::always_inline]] inline Floats level(Ints v, const Lookup& lookup) noexcept {
  const Ints code = vandq_u32(v, vdupq_n_u32((1u << kBits) - 1));
  if constexpr (kTable) {
    const Ints index = vmlaq_n_u32(vdupq_n_u32(0x0302'0100), code, 0x0404'0404);
    return vreinterpretq_f32_u8(vqtbl4q_u8(lookup.table, vreinterpretq_u8_u32(index)));
  } else {  // even levels are one apart
    return vaddq_f32(vcvtq_f32_u32(code), vdupq_n_f32(lookup.first));
  }
}

/// kWidth numbers of 16 bits.
[[SINQ_TARGET, gnu::always_inline]] inline Floats load_f16(const std::uint8_t* p) noexcept {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats load_bf16(const std::uint8_t* p) noexcept {
  return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}
[[SINQ_TARGET, gnu::always_inline]] inline void store_f16(std::uint8_t* p, Floats v) noexcept {
  vst1_u8(p, vreinterpret_u8_f16(vcvt_f16_f32(v)));
}

[[SINQ_TARGET, gnu::always_inline]] inline Ints all_ints(int k) noexcept {
  return vreinterpretq_u32_s32(vdupq_n_s32(k));
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints add_ints(Ints a, Ints b) noexcept {
  return vaddq_u32(a, b);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints bits_and(Ints a, Ints b) noexcept {
  return vandq_u32(a, b);
}
/// Every lane shifted by what the same lane of `count` says.
[[SINQ_TARGET, gnu::always_inline]] inline Ints right_by(Ints v, Ints count) noexcept {
  return vshlq_u32(v, vnegq_s32(vreinterpretq_s32_u32(count)));
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints arithmetic_right_by(Ints v, Ints count) noexcept {
  return vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(v), vnegq_s32(vreinterpretq_s32_u32(count))));
}

#include "reading.inc"

#include "floats.inc"

// --- products of bytes ---------------------------------------------------------------------------------------------

/// Four bytes in every lane.
[[SINQ_TARGET, gnu::always_inline]] inline Ints broadcast(const std::int8_t* four) noexcept {
  std::uint32_t word = 0;
  std::memcpy(&word, four, 4);
  return vdupq_n_u32(word);
}
template <int kBits>
[[SINQ_TARGET, gnu::always_inline]] inline Ints low_bits_of_bytes(Ints v) noexcept {
  return vandq_u32(v, vdupq_n_u32(0x0101'0101u * ((1u << kBits) - 1)));
}
using Table = Ints;
[[SINQ_TARGET, gnu::always_inline]] inline Table load_table(const std::uint8_t* table) noexcept {
  return load_ints(table);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints lookup_bytes(Table table, Ints index) noexcept {
  return vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(table), vreinterpretq_u8_u32(index)));
}
[[SINQ_TARGET, gnu::always_inline]] inline Floats larger_magnitude(Floats a, Floats b) noexcept {
  const Ints magnitude = vandq_u32(vreinterpretq_u32_f32(b), vdupq_n_u32(0x7fff'ffff));
  return vreinterpretq_f32_u32(vmaxq_u32(vreinterpretq_u32_f32(a), magnitude));  // ordered as integers
}
/// To the nearest integer.
[[SINQ_TARGET, gnu::always_inline]] inline Ints to_ints(Floats v) noexcept {
  return vreinterpretq_u32_s32(vcvtnq_s32_f32(v));
}
[[SINQ_TARGET, gnu::always_inline]] inline void store_ints(std::int32_t* p, Ints v) noexcept {
  vst1q_s32(p, vreinterpretq_s32_u32(v));
}
/// The low bytes of kWidth lanes, as a word.
[[SINQ_TARGET, gnu::always_inline]] inline void low_bytes(Ints v, std::int32_t* words) noexcept {
  const uint16x4_t halves = vmovn_u32(v);
  words[0] = vget_lane_s32(vreinterpret_s32_u8(vmovn_u16(vcombine_u16(halves, halves))), 0);
}
[[SINQ_TARGET, gnu::always_inline]] inline Ints dot_signed(Ints sum, Ints a, Ints x) noexcept {
  return vreinterpretq_u32_s32(vdotq_s32(vreinterpretq_s32_u32(sum), vreinterpretq_s8_u32(a), vreinterpretq_s8_u32(x)));
}

using Fours = int32x4_t;

[[SINQ_TARGET, gnu::always_inline]] inline Fours no_fours() noexcept {
  return vdupq_n_s32(0);
}
[[SINQ_TARGET, gnu::always_inline]] inline Fours add_fours(Fours a, Fours b) noexcept {
  return vaddq_s32(a, b);
}
[[SINQ_TARGET, gnu::always_inline]] inline std::int32_t sum_of(Fours four) noexcept {
  return vaddvq_s32(four);
}

/// As in fours_x86.inc.
struct FoursOrder {
  uint8x16_t order;

  [[SINQ_TARGET, gnu::always_inline]] explicit inline FoursOrder(int bits) noexcept {
    std::uint8_t columns[16];
    for (int k = 0; k < 16; ++k) columns[k] = static_cast<std::uint8_t>(pack::column_of(bits, k / 4, k % 4));
    order = vld1q_u8(columns);
  }
  [[SINQ_TARGET, gnu::always_inline]] inline Fours arrange(std::int32_t* words) const noexcept {
    const int8x16_t bytes = vqtbl1q_s8(vreinterpretq_s8_s32(vld1q_s32(words)), order);
    vst1q_s32(words, vreinterpretq_s32_s8(bytes));
    return vdotq_s32(no_fours(), bytes, vdupq_n_s8(1));
  }
};

#include "integers.inc"

namespace dotprod {
/// sum + the four products of the unsigned bytes of every lane and four signed ones. Bytes of 128 and more are 128
/// lower as signed ones with the highest bit turned over; 64 x, twice, puts that back.
template <bool kWide>
[[SINQ_TARGET, gnu::always_inline]] inline Ints dot(Ints sum, Ints bytes, const std::int8_t* four) noexcept {
  const Ints x = broadcast(four);
  if constexpr (!kWide) return dot_signed(sum, bytes, x);
  const Ints half = vdupq_n_u32(0x4040'4040);
  return dot_signed(dot_signed(dot_signed(sum, veorq_u32(bytes, vdupq_n_u32(0x8080'8080)), x), half, x), half, x);
}

#include "fours.inc"

#include "bytes.inc"
}  // namespace dotprod
}  // namespace sinq::inline SINQ_ABI::detail::matmul::neon

#undef SINQ_TARGET
#define SINQ_TARGET gnu::target("arch=armv8.2-a+dotprod+i8mm")

namespace sinq::inline SINQ_ABI::detail::matmul::neon::i8mm {
template <bool kWide>
[[SINQ_TARGET, gnu::always_inline]] inline Ints dot(Ints sum, Ints bytes, const std::int8_t* four) noexcept {
  const Ints x = broadcast(four);
  return vreinterpretq_u32_s32(
      vusdotq_s32(vreinterpretq_s32_u32(sum), vreinterpretq_u8_u32(bytes), vreinterpretq_s8_u32(x)));
}

#include "fours.inc"

#include "bytes.inc"
}  // namespace sinq::inline SINQ_ABI::detail::matmul::neon::i8mm

#undef SINQ_TARGET
#endif
