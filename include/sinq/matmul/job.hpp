// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "problem.hpp"

namespace sinq::inline SINQ_ABI::detail::matmul {

using pack::kStripRows;

/// Columns that a kernel restores at a time: 16 rows x 256 columns of float are 16 KB, half of a first-level cache.
inline constexpr std::int64_t kChunk = 256;
/// Tokens that one pass over the weights serves.
inline constexpr std::int64_t kTokenBlock = 64;

/// Columns of the scaled activations: whole units.
[[nodiscard]] constexpr std::int64_t padded(std::int64_t cols) noexcept {
  return pack::StripOrder::units(cols) * pack::kUnitCols;
}

/// Columns that share one step of rounded activations: a group, or 256 columns of a longer one, so that sums of
/// products of two bytes stay below 2^24 (255 * 127 * 256), where a float holds every integer.
[[nodiscard]] constexpr std::int64_t segment_cols(const Tiling& t) noexcept {
  return std::min<std::int64_t>(t.group_size, 256);
}
[[nodiscard]] constexpr std::int64_t segments(const Tiling& t) noexcept {
  return (t.cols + segment_cols(t) - 1) / segment_cols(t);
}

/// Levels as unsigned bytes, for products of bytes: level = (byte - base) * unit. Exact but for NF, whose levels are
/// rounded to multiples of 1 / 127.
struct ByteLevels {
  explicit ByteLevels(const pack::StripReader& w) noexcept {
    const Format& f = w.format();
    if (f.levels == Levels::symmetric) base = static_cast<float>(1 << (f.bits - 1));
    if (f.levels <= Levels::symmetric) return;
    base = 128;
    if (f.levels != Levels::table) unit = 1.0f / 127.0f;
    for (int k = 0; k < 16; ++k) {
      const float level = w.levels()[static_cast<std::size_t>(k & ((1 << f.bits) - 1))];
      table[k] = static_cast<std::uint8_t>(level / unit + 128.5f);
    }
  }
  float unit = 1;
  float base = 0;
  std::uint8_t table[16] = {};  // byte of a code; unused for even levels, where it is the code
};

/// Activations rounded to bytes: x ~= rounded * step.
struct Rounded {
  std::int8_t* x;  // tokens x padded(cols)
  float* step;     // tokens x segments
  float* sum;      // tokens x segments: sum of `x` over a segment
};

/// One strip times a block of tokens.
struct Job {
  const pack::StripReader* weights;
  std::int64_t strip;
  const float* x;     // tokens x padded(cols), col_scale folded in, zeros behind the last column
  const float* sums;  // tokens x groups: sum of x over a group
  Rounded rounded;    // of x; only for fast numerics
  const ByteLevels* byte_levels;
  std::int64_t tokens;  // 1 to kTokenBlock
  float* scratch;       // kScratch floats, aligned to 64 bytes
  float* y;             // result: tokens x kStripRows, aligned to 64 bytes
};

/// How entry r of 16 integers of n bits comes into lane r of a vector: two bytes that hold it into the lane, then to
/// the left until its top bit is the lane's.
template <int n>
struct BitFields {
  std::uint8_t bytes[64];
  std::int32_t left[16];
};
template <int n>
inline constexpr BitFields<n> kBitFields = [] {
  BitFields<n> f{};
  for (int r = 0; r < 16; ++r) {
    f.bytes[4 * r] = static_cast<std::uint8_t>(r * n / 8 % 16);
    f.bytes[4 * r + 1] = static_cast<std::uint8_t>((r * n / 8 + 1) % 16);
    f.bytes[4 * r + 2] = f.bytes[4 * r + 3] = 0x80;  // zero
    f.left[r] = 32 - n - r * n % 8;
  }
  return f;
}();

/// Rounds the tokens of a block: x, tokens x padded(cols), to bytes.
using Round = void (*)(const float* x, std::int64_t tokens, const Tiling& t, const Rounded& out) noexcept;

using Kernel = void (*)(const Job&) noexcept;

/// Scales and zeros of a block, then the restored weights of a chunk.
inline constexpr std::int64_t kScratch = (2 * pack::kBlockGroups + kChunk) * kStripRows;

}  // namespace sinq::inline SINQ_ABI::detail::matmul
