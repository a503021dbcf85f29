// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "activations.hpp"

// Sums in arrays of registers stay in registers only where the loops over them are unrolled, which g++ -O2 does not do
// by itself.
#if defined(__CUDACC__)  // knows neither pragma in code for the host
#define SINQ_UNROLL
#elif defined(__clang__)
#define SINQ_UNROLL _Pragma("unroll")
#else
#define SINQ_UNROLL _Pragma("GCC unroll 16")
#endif

namespace sinq::inline SINQ_ABI::detail::matmul {

/// Columns that a kernel restores at a time: 16 rows x 256 columns of float are 16 KB, half of a first-level cache.
inline constexpr std::int64_t kChunk = 256;

/// What a stored zero z stands for, in units of `unit` and counted from `base` units below level 0: factor z + offset.
struct ZeroMeaning {
  ZeroMeaning() = default;
  ZeroMeaning(const Format& f, float unit, float base) noexcept : factor(1 / unit), offset(base) {
    if (!is_integer(f.zero)) return;
    const auto span = core::level_span(f.levels, f.bits);
    factor = span.width / static_cast<float>(1 << bits_of(f.zero)) / unit;
    offset = span.low / unit + base;
  }
  float factor;
  float offset;
};

/// Whether scales and zeros are integers that sums of products can be multiplied by, for all of a row's groups in
/// common units: see groups.inc. Groups of 16 or whole units, at most 256 columns.
[[nodiscard]] inline bool has_integer_groups(const Format& f, const Tiling& t) noexcept {
  const bool even = f.levels == Levels::uniform || f.levels == Levels::table;
  return is_integer(f.scale) && f.coarse_groups == 0 && (f.zero == Aux::none || (is_integer(f.zero) && even)) &&
         t.group_size <= 256 && (t.group_size == 16 || t.group_size % pack::kUnitCols == 0);
}

/// There, so many times the sum of a segment's activations is kept: the sum itself, for the zeros to be multiplied by
/// it, or what the sums of products begin with, which takes away what levels are stored above zero.
[[nodiscard]] inline std::int32_t start_factor(const Format& f) noexcept {
  if (f.zero != Aux::none) return 1;
  return f.levels == Levels::symmetric ? -(1 << (f.bits - 1)) : -128;
}

/// Asks for what comes 4 KB behind a line, into the second-level cache, and for what comes 1 KB behind it, into the
/// first-level one. Arithmetic and memory overlap only if every line, of auxiliaries too, is asked for early: a line
/// that is not stops everything. What is asked for behind the last strip of a task is lost, so not much earlier either.
[[gnu::always_inline]] inline void ask_behind(const std::uint8_t* line) noexcept {
  __builtin_prefetch(line + 4096, 0, 2);
  __builtin_prefetch(line + 1024);
}

/// Behind block b's lines of auxiliaries.
[[gnu::always_inline]] inline void ask_behind_auxiliaries(const pack::StripOrder& o, const std::uint8_t* strip,
                                                          std::int64_t b) noexcept {
  for (std::int64_t at = o.scales(b); at < o.codes(b); at += pack::kLine) ask_behind(strip + at);
}

/// Levels as unsigned bytes, for products of bytes: level = (byte - base) * unit. Exact but for NF, whose levels are
/// rounded to multiples of 1 / 127.
struct ByteLevels {
  explicit ByteLevels(const pack::StripReader& w) noexcept
      : unit(core::is_nf(w.format().levels) ? 1.0f / 127.0f : 1), zero(w.format(), unit, base(w.format())) {
    if (w.format().levels <= Levels::symmetric) return;
    for (int k = 0; k < 16; ++k) {
      const float level = w.levels()[static_cast<std::size_t>(k & ((1 << w.format().bits) - 1))];
      table[k] = static_cast<std::uint8_t>(level / unit + 128.5f);
    }
  }
  static float base(const Format& f) noexcept {
    if (f.levels == Levels::uniform) return 0;
    return f.levels == Levels::symmetric ? static_cast<float>(1 << (f.bits - 1)) : 128;
  }

  float unit;
  ZeroMeaning zero;
  std::uint8_t table[16] = {};  // byte of a code; unused for even levels, where it is the code
};

/// How the bytes of activations lie in memory, four by four: as they are, or as two times four bytes.
enum class Spread : std::uint8_t { bytes, digits, words };

/// Of memory, for one byte of an activation.
[[nodiscard]] constexpr int size_of(Spread s) noexcept {
  return s == Spread::bytes ? 1 : 2;
}

/// Four bytes, -128 ... 127, as low + 16 high with low in 0 ... 15.
struct Digits {
  explicit Digits(std::uint32_t bytes) noexcept : first(bytes & 0x0f0f'0f0f), second(bytes >> 4 & 0x0f0f'0f0f) {
    second |= (second & 0x0808'0808) * 30;  // the sign: 8 -> 0xf0
  }
  std::uint32_t first;
  std::uint32_t second;
};

/// Four bytes, -128 ... 127, as numbers of 16 bits: the even ones, then the odd ones.
struct Words {
  explicit Words(std::uint32_t bytes) noexcept
      : first(with_signs(bytes & 0x00ff'00ff)), second(with_signs(bytes >> 8 & 0x00ff'00ff)) {}
  std::uint32_t first;
  std::uint32_t second;

 private:
  static std::uint32_t with_signs(std::uint32_t pair) noexcept { return pair | (pair & 0x0080'0080) * 510; }
};

/// Strips that share what a worker prepares, at most.
inline constexpr std::int64_t kMostStrips = 4;

/// One strip, or as many as the method takes at once, times a block of tokens.
struct Job {
  const pack::StripReader* weights;
  const ByteLevels* byte_levels;
  std::int64_t strip;
  std::int64_t strips;
  const Prepared* x;
  std::int64_t tokens;  // 1 to token_block
  float* scratch;       // kScratch floats, aligned to 64 bytes
  float* y;             // results: strips x most_tokens() x kStripRows, aligned to 64 bytes
};

using Kernel = void (*)(const Job&) noexcept;

/// Calls serve(count, first) until all n tokens are served: below four one by one, from four on 16 or 8 at a time (at
/// most `most`, at most kMost) where more than half of them are left, else 4. The last ones share their pass with some
/// that have been served before. kMost = 1: always one by one.
template <int kMost, class Serve>
void for_tokens(std::int64_t n, Serve&& serve, std::int64_t most = kMost) noexcept {
  static_assert(kMost == 1 || kMost >= 4);
  if (kMost == 1 || n < 4) {
    for (std::int64_t t = 0; t < n; ++t) serve(std::integral_constant<int, 1>{}, t);
    return;
  }
  std::int64_t t = 0;
  while (t < n) {  // a kernel called in two places would come out slower (g++ 12)
    const auto serves = [&](auto count) {
      if (count > 4 && (count > most || count > n || 2 * (n - t) <= count)) return false;
      serve(count, std::min(t, n - count));
      t += count;
      return true;
    };
    if constexpr (kMost >= 16)
      if (serves(std::integral_constant<int, 16>{})) continue;
    if constexpr (kMost >= 8)
      if (serves(std::integral_constant<int, 8>{})) continue;
    if constexpr (kMost >= 4) (void)serves(std::integral_constant<int, 4>{});
  }
}

/// Sums of different tokens and planes that are enough to keep two units busy, and leave registers for as many totals.
inline constexpr int kFewSums = 12;

/// Tokens at once: groups of 16 have a total beside each sum, or are scaled so often that more of them gain nothing.
template <int kPlanes, int kMost>
[[nodiscard]] constexpr std::int64_t most_at_once(const Tiling& t) noexcept {
  return t.group_size == 16 ? kFewSums / kPlanes : kMost;
}

/// How codes are multiplied: for one token; below kFewSums sums; from there on.
template <int kTokens, int kPlanes, class One, class Few, class Many>
using CodesFor = std::conditional_t<kTokens == 1, One, std::conditional_t<(kTokens * kPlanes < kFewSums), Few, Many>>;

/// How a kernel walks through the segments of a block.
struct Segments {
  explicit Segments(const Tiling& t) noexcept
      : halves((segment_cols(t) + 15) / 16), one_group(t.group_size > segment_cols(t)) {}
  std::int64_t halves;  // of units in a segment
  bool one_group;       // the whole row, of many segments
};

/// Scales and zeros of a block, then the restored weights of a chunk; or what amx_bytes.hpp keeps of a batch.
inline constexpr std::int64_t kScratch = (2 * pack::kMostBlockGroups + kChunk) * kStripRows;

}  // namespace sinq::inline SINQ_ABI::detail::matmul
