// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "codes.hpp"
#include "instructions.cuh"

// Bits -> numbers, inside a kernel.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// Index of the thread among all of a grid in one dimension.
SINQ_CUDA_DEVICE std::int64_t global_thread() {
  return std::int64_t{block_index().x} * thread_count() + thread_index();
}

/// The value of a stored number, before factor and offset.
SINQ_CUDA_DEVICE float number_value(Number number, int bits, std::uint32_t raw) {
  switch (number) {
    case Number::f16:
      return from_half(static_cast<std::uint16_t>(raw));
    case Number::bf16:
      return as_float(raw << 16);
    case Number::f32:
      return as_float(raw);
    case Number::signed_integer:
      return static_cast<float>(static_cast<std::int32_t>(raw << (32 - bits)) >> (32 - bits));
    default:
      return static_cast<float>(raw);
  }
}

/// The lowest `bits` bits, of 0 to 32.
SINQ_CUDA_DEVICE std::uint32_t low_bits(int bits) {
  return bits == 0 ? 0 : 0xffff'ffffu >> (32 - bits);
}

SINQ_CUDA_BOTH constexpr int size_of(Number number) {
  return number == Number::f32 ? 4 : 2;
}

/// The float whose half or bfloat16 has these bits.
SINQ_CUDA_DEVICE float short_value(Number number, std::uint32_t raw) {
  return number == Number::f16 ? from_half(static_cast<std::uint16_t>(raw)) : as_float(raw << 16);
}

/// Element `index` of an array of floats in global memory.
SINQ_CUDA_DEVICE float load_number(Number number, const void* array, std::int64_t index) {
  const auto* at = static_cast<const std::uint8_t*>(array) + index * size_of(number);
  if (number == Number::f32) return load_global<float>(at);
  return short_value(number, load_global<std::uint16_t>(at));
}

SINQ_CUDA_DEVICE void store_number(Number number, void* array, std::int64_t index, float value) {
  auto* const at = static_cast<std::uint8_t*>(array) + index * size_of(number);
  if (number == Number::f32)
    store_global(at, value);
  else
    store_global(at, number == Number::f16 ? to_half(value) : to_bfloat16(value));
}

/// Two floats as halves or bfloat16, the first in the lower bits.
SINQ_CUDA_DEVICE std::uint32_t two_shorts(Number number, float low, float high) {
  return number == Number::f16 ? to_half(low) | static_cast<std::uint32_t>(to_half(high)) << 16
                               : to_bfloat16(low) | static_cast<std::uint32_t>(to_bfloat16(high)) << 16;
}

/// Four consecutive elements; the first `count` exist, the others become 0. `aligned`: to the size of four.
SINQ_CUDA_DEVICE void load_numbers(Number number, const void* array, std::int64_t index, int count, bool aligned,
                                   float (&v)[4]) {
  const auto* at = static_cast<const std::uint8_t*>(array) + index * size_of(number);
  if (!aligned || count < 4) {
    SINQ_CUDA_UNROLL
    for (int i = 0; i < 4; ++i) v[i] = i < count ? load_number(number, at, i) : 0.0f;
  } else if (number == Number::f32) {
    const auto words = load_global<Words4>(at);
    SINQ_CUDA_UNROLL
    for (int i = 0; i < 4; ++i) v[i] = as_float(words.w[i]);
  } else {
    const auto words = load_global<Words2>(at);
    SINQ_CUDA_UNROLL
    for (int i = 0; i < 4; ++i) v[i] = short_value(number, words.w[i / 2] >> (16 * (i % 2)) & 0xffffu);
  }
}

/// Writes the first `count` of eight values to consecutive elements; all at once if the address allows.
SINQ_CUDA_DEVICE void store_numbers(Number number, void* array, std::int64_t index, int count, const float (&v)[8]) {
  auto* const at = static_cast<std::uint8_t*>(array) + index * size_of(number);
  if (count < 8 || reinterpret_cast<std::uintptr_t>(at) % 16 != 0) {
    SINQ_CUDA_UNROLL
    for (int i = 0; i < 8; ++i)
      if (i < count) store_number(number, at, i, v[i]);
  } else if (number == Number::f32) {
    store_global(at, Words4{{as_bits(v[0]), as_bits(v[1]), as_bits(v[2]), as_bits(v[3])}});
    store_global(at + 16, Words4{{as_bits(v[4]), as_bits(v[5]), as_bits(v[6]), as_bits(v[7])}});
  } else {
    Words4 words;
    SINQ_CUDA_UNROLL
    for (int i = 0; i < 4; ++i) words.w[i] = two_shorts(number, v[2 * i], v[2 * i + 1]);
    store_global(at, words);
  }
}

/// A lane's words of a unit that lies in shared memory, with the widest loads.
template <int kBits>
SINQ_CUDA_DEVICE void load_words(std::uint32_t unit, int lane, std::uint32_t (&words)[kBits]) {
  constexpr int kFours = kBits / 4 * 4, kTwos = kBits % 4 / 2 * 2;
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kFours; k += 4) {
    const auto four = load_shared<Words4>(unit + 4 * static_cast<std::uint32_t>(word_in_unit(kBits, lane, k)));
    SINQ_CUDA_UNROLL
    for (int i = 0; i < 4; ++i) words[k + i] = four.w[i];
  }
  if constexpr (kTwos != 0) {
    const auto two = load_shared<Words2>(unit + 4 * static_cast<std::uint32_t>(word_in_unit(kBits, lane, kFours)));
    words[kFours] = two.w[0];
    words[kFours + 1] = two.w[1];
  }
  if constexpr (kBits % 2 != 0)
    words[kBits - 1] =
        load_shared<std::uint32_t>(unit + 4 * static_cast<std::uint32_t>(word_in_unit(kBits, lane, kBits - 1)));
}

/// The levels of a column pair as pairs of halves, rows g and g + 8. Each lane has its own bank, or, with 2 bits, each
/// half of a warp its own pairs of banks, so that the look-ups of a warp never collide. `next`: of the next column
/// pair.
template <int kBits>
SINQ_CUDA_DEVICE Words2 load_levels(const std::uint32_t (&words)[kBits], int pair, std::uint32_t table, int lane,
                                    bool next = false) {
  if constexpr (kBits == 2) {
    return load_shared<Words2>(table +
                               (table_row<kBits>(words, pair, 0) | static_cast<std::uint32_t>(8 * (lane % 16))));
  } else {
    Words2 levels;
    SINQ_CUDA_UNROLL
    for (int upper = 0; upper < 2; ++upper) {
      std::uint32_t row = table_row<kBits>(words, pair, upper);
      if (next) row = table_row<kBits>(words, pair + 1, upper);
      levels.w[upper] = load_shared<std::uint32_t>(table + (row | static_cast<std::uint32_t>(4 * lane)));
    }
    return levels;
  }
}

/// The auxiliary `field` whose bits begin at bit `at` of a strip's stream.
SINQ_CUDA_DEVICE float load_field(const Field& field, const std::uint8_t* stream, int at) {
  if (field.bits == 0) return field.offset;
  const auto low = load_global<std::uint32_t>(stream + (at >> 5 << 2));
  const auto high = load_global<std::uint32_t>(stream + ((at + field.bits - 1) >> 5 << 2));
  const std::uint32_t raw = funnel(low, high, static_cast<unsigned>(at & 31)) & low_bits(field.bits);
  return multiply(number_value(field.number, field.bits, raw), field.factor) + field.offset;
}

/// Scale and zero of a row of a strip, in the group of the matrix to which the record belongs.
struct StoredFactors {
  float scale;
  float zero;
};
SINQ_CUDA_DEVICE StoredFactors load_factors(const Weights& w, const std::uint8_t* stream, const RecordCursor& record,
                                            int row, int group) {
  const int at = 8 * record.offset, in_record = group % w.record_groups;
  StoredFactors f{};
  f.scale = load_field(w.scale, stream, at + w.field_bit(w.scale.bits, row, in_record));
  if (w.header != 0)
    f.scale = multiply(f.scale, from_half(load_global<std::uint16_t>(stream + record.header_offset(w) + 2 * row)));
  f.zero = load_field(w.zero, stream, at + w.zeros_bit() + w.field_bit(w.zero.bits, row, in_record));
  return f;
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
