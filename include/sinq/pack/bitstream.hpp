// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "../core.hpp"

// Codes <-> bits. A row of codes is one dense little-endian bit stream: code k occupies bits [k b, (k+1) b), counted
// from the least significant bit of the first byte; the row ends with the byte that holds its last bit.
//
//   b = 3, byte:       0                1                2
//          bit: 7 6 5 4 3 2 1 0  7 6 5 4 3 2 1 0  7 6 5 4 3 2 1 0
//         code: 2 2 1 1 1 0 0 0  5 4 4 4 3 3 3 2  7 7 7 6 6 6 5 5
//
// At every width eight codes take exactly b bytes, and three rounds of "move the upper half up" spread them over the
// eight bytes of a word, so that reading and writing cost little more than one operation per code.

namespace sinq::inline SINQ_ABI::detail::pack {

/// Bytes of a row of `count` codes of `bits` bits.
[[nodiscard]] constexpr std::int64_t stream_bytes(std::int64_t count, int bits) noexcept {
  return (count * bits + 7) / 8;
}

/// `low` set bits in every `lane` bits of a word.
constexpr std::uint64_t lane_mask(int lane, int low) noexcept {
  std::uint64_t mask = 0;
  for (int at = 0; at < 64; at += lane) mask |= ((std::uint64_t{1} << low) - 1) << at;
  return mask;
}

template <class Word>
[[nodiscard, gnu::always_inline]] inline Word get_word(const std::uint8_t* from) noexcept {
  Word word = 0;
  std::memcpy(&word, from, sizeof word);
  return word;
}
template <int kBytes, class Word>
[[gnu::always_inline]] inline void put_word(std::uint8_t* to, Word word) noexcept {
  std::memcpy(to, &word, kBytes);
}

/// kBits bytes. Never a copy of 3, 5 or 6 bytes into a word: that goes through memory in two pieces, which the
/// processor cannot read back as one without waiting.
template <int kBits>
[[nodiscard, gnu::always_inline]] inline std::uint64_t get_eight(const std::uint8_t* from) noexcept {
  if constexpr (kBits == 2) return get_word<std::uint16_t>(from);
  if constexpr (kBits == 3) return get_word<std::uint16_t>(from) | std::uint64_t{from[2]} << 16;
  if constexpr (kBits == 8) return get_word<std::uint64_t>(from);
  std::uint64_t word = get_word<std::uint32_t>(from);
  if constexpr (kBits == 5 || kBits == 7) word |= std::uint64_t{from[kBits - 1]} << (8 * kBits - 8);
  if constexpr (kBits == 6 || kBits == 7) word |= std::uint64_t{get_word<std::uint16_t>(from + 4)} << 32;
  return word;
}

/// Eight codes in the low 8 b bits -> one code per byte.
template <int kBits>
[[nodiscard]] constexpr std::uint64_t spread(std::uint64_t x) noexcept {
  if constexpr (kBits == 8) {
    return x;
  } else {
    x = (x & lane_mask(64, 4 * kBits)) | ((x >> (4 * kBits)) & lane_mask(64, 4 * kBits)) << 32;
    x = (x & lane_mask(32, 2 * kBits)) | (x & lane_mask(32, 2 * kBits) << (2 * kBits)) << (16 - 2 * kBits);
    x = (x & lane_mask(16, kBits)) | (x & lane_mask(16, kBits) << kBits) << (8 - kBits);
    return x;
  }
}

/// One code per byte (below 2^b) -> eight codes in the low 8 b bits.
template <int kBits>
[[nodiscard]] constexpr std::uint64_t gather(std::uint64_t x) noexcept {
  if constexpr (kBits == 8) {
    return x;
  } else {
    x = (x & lane_mask(16, kBits)) | (x >> (8 - kBits) & lane_mask(16, kBits) << kBits);
    x = (x & lane_mask(32, 2 * kBits)) | (x >> (16 - 2 * kBits) & lane_mask(32, 2 * kBits) << (2 * kBits));
    x = (x & lane_mask(64, 4 * kBits)) | (x >> (32 - 4 * kBits) & lane_mask(64, 4 * kBits) << (4 * kBits));
    return x;
  }
}

/// Reads codes [first, first + count) of a stream, one byte each. `first` is a multiple of 8. Touches no byte beyond
/// the last code's.
template <int kBits>
void read_codes(const std::uint8_t* stream, std::int64_t first, std::int64_t count, std::uint8_t* codes) noexcept {
  const std::uint8_t* from = stream + first / 8 * kBits;
  std::int64_t k = 0;
  for (; k + 8 <= count; k += 8, from += kBits) put_word<8>(codes + k, spread<kBits>(get_eight<kBits>(from)));
  if (k < count) {
    std::uint64_t word = 0;
    std::memcpy(&word, from, static_cast<std::size_t>(stream_bytes(count - k, kBits)));
    word = spread<kBits>(word);
    std::memcpy(codes + k, &word, static_cast<std::size_t>(count - k));
  }
}

/// The inverse of `read_codes`. Bits behind the last code become zero.
template <int kBits>
void write_codes(std::uint8_t* stream, std::int64_t first, std::int64_t count, const std::uint8_t* codes) noexcept {
  std::uint8_t* to = stream + first / 8 * kBits;
  std::int64_t k = 0;
  for (; k + 8 <= count; k += 8, to += kBits) put_word<kBits>(to, gather<kBits>(get_word<std::uint64_t>(codes + k)));
  if (k < count) {
    std::uint64_t word = 0;
    std::memcpy(&word, codes + k, static_cast<std::size_t>(count - k));
    word = gather<kBits>(word);
    std::memcpy(to, &word, static_cast<std::size_t>(stream_bytes(count - k, kBits)));
  }
}

inline void read_codes(int bits, const std::uint8_t* stream, std::int64_t first, std::int64_t count,
                       std::uint8_t* codes) noexcept {
  core::with_bits(bits, [&](auto b) { read_codes<b()>(stream, first, count, codes); });
}

inline void write_codes(int bits, std::uint8_t* stream, std::int64_t first, std::int64_t count,
                        const std::uint8_t* codes) noexcept {
  core::with_bits(bits, [&](auto b) { write_codes<b()>(stream, first, count, codes); });
}

}  // namespace sinq::inline SINQ_ABI::detail::pack
