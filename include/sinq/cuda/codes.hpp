// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "../core.hpp"
#include "layout.hpp"

// Codes <-> a lane's words of a unit, the same on host and device. All places are known at compile time once the loops
// around are unrolled.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// Calls visit(bits, paired) with compile-time constants.
template <class Visitor>
void with_codes(int bits, bool paired, Visitor&& visit) {
  core::with_code_bits(bits, [&](auto b) {
    if constexpr (b() <= 4)
      if (paired) return visit(b, std::true_type{});
    visit(b, std::false_type{});
  });
}

/// To the right; by up to 31 bits, or to the left.
SINQ_CUDA_BOTH constexpr std::uint32_t rotated(std::uint32_t word, int bits) {
  return word >> (bits & 31) | word << (-bits & 31);
}

/// The direct codes of a column pair as two subnormal halves: a mask, or two and a shift where there is a second plane.
template <int kBits>
SINQ_CUDA_BOTH constexpr std::uint32_t direct_operand(const std::uint32_t (&words)[kBits], int pair, int upper) {
  const BitPlace main = main_place(kBits, pair, upper);
  const int shift = main.bit - 8 * upper;
  const std::uint32_t main_mask = ((1u << main_bits(kBits)) - 1) * 0x0001'0001u;
  std::uint32_t operand = words[main.word] >> (8 * upper) & main_mask << shift;
  if constexpr (second_bits(kBits) != 0) {
    const SecondPlace second = second_place(kBits, pair, upper);
    const std::uint32_t mask = (((1u << second_bits(kBits)) - 1) * 0x0001'0001u) << (shift + main_bits(kBits));
    const std::uint32_t word = words[second.word];
    operand |= (second.shift >= 0 ? word >> second.shift : word << -second.shift) & mask;
  }
  return operand;
}

/// Where a table of levels has what paired codes stand for: two instructions or one, since the index is masked where it
/// has the weight of a row.
template <int kBits>
SINQ_CUDA_BOTH constexpr std::uint32_t table_row(const std::uint32_t (&words)[kBits], int pair, int upper) {
  if (kBits == 3 && 2 * pair + upper == 15) {
    constexpr int kBit = (30 + kRowBit) % 32, kUp = kRowBit - kBit;
    return (words[0] << kUp & 3u << kRowBit) | (words[1] << (kUp + 2) & 12u << kRowBit) |
           (words[kBits - 1] << (kUp + 4) & 48u << kRowBit);
  }
  const BitPlace place = index_place(kBits, pair, upper, 0);
  const std::uint32_t word = words[place.word];
  return rotated(word, place.bit - kRowBit) & ((1u << index_bits(kBits)) - 1) << kRowBit;
}

/// The index of a column pair of paired codes.
template <int kBits>
SINQ_CUDA_BOTH constexpr std::uint32_t pair_index(const std::uint32_t (&words)[kBits], int pair, int upper) {
  return table_row<kBits>(words, pair, upper) >> kRowBit & ((1u << (2 * kBits)) - 1);
}

/// The code of a column pair's first or second column.
template <int kBits, bool kPaired>
SINQ_CUDA_BOTH constexpr std::uint32_t code_at(const std::uint32_t (&words)[kBits], int pair, int upper, int second) {
  if constexpr (kPaired)
    return pair_index<kBits>(words, pair, upper) >> (second * kBits) & ((1u << kBits) - 1);
  else
    return direct_operand<kBits>(words, pair, upper) >> (operand_shift(kBits, pair) + 16 * second) &
           ((1u << kBits) - 1);
}

/// Puts a code among a lane's words, which were zero (layout.hpp).
template <int kBits, bool kPaired>
SINQ_CUDA_BOTH constexpr void put_code(std::uint32_t (&words)[kBits], int pair, int upper, int second,
                                       std::uint32_t code) {
  if constexpr (!kPaired) {
    const BitPlace main = main_place(kBits, pair, upper);
    words[main.word] |= (code & ((1u << main_bits(kBits)) - 1)) << (main.bit + 16 * second);
    if constexpr (second_bits(kBits) != 0) {
      const SecondPlace high = second_place(kBits, pair, upper);
      words[high.word] |= code >> main_bits(kBits) << (high.bit + 16 * second);
    }
  } else if (kBits == 3 && 2 * pair + upper == 15) {
    SINQ_CUDA_UNROLL
    for (int b = 0; b < kBits; ++b) {
      const BitPlace place = index_place(kBits, pair, upper, second * kBits + b);
      words[place.word] |= (code >> b & 1u) << place.bit;
    }
  } else {
    const BitPlace place = index_place(kBits, pair, upper, second * kBits);
    words[place.word] |= rotated(code, -place.bit);
  }
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
