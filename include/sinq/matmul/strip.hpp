// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "problem.hpp"

// The portable kernel: a strip of rows times a block of tokens, in float.
//
//   for each chunk of kChunk columns:
//     restore   strip rows x chunk   w = (level(code) - zero) * scale, into L1 (16 rows x 256 columns = 16 KB)
//     multiply  tokens x rows        4 rows x 2 tokens of dot products at a time, each in a vector register
//
// The activations come with col_scale already folded in (x' = col_scale * x), padded with zeros to whole chunks of 16.
// The same source serves every instruction set: `kWidth` floats per vector (GNU vector extensions), always inlined into
// a function that names its target. Results differ between instruction sets by rounding only, and never by thread
// count.

namespace sinq::inline SINQ_ABI::detail::matmul {

inline constexpr std::int64_t kStripRows = 16;
inline constexpr std::int64_t kChunk = 256;
inline constexpr std::int64_t kTokenBlock = 64;

[[nodiscard]] constexpr std::int64_t padded(std::int64_t cols) noexcept {
  return (cols + 15) / 16 * 16;
}

/// A strip to multiply. Rows [first_row, first_row + rows) lie in one panel.
struct Strip {
  const pack::RowReader* weights;
  std::int64_t first_row;
  std::int64_t rows;        // 1 to kStripRows
  const float* x;           // tokens x padded(cols), col_scale folded in
  std::int64_t tokens;      // 1 to kTokenBlock
  float* scales = nullptr;  // scratch: kStripRows x groups
  float* zeros = nullptr;   // scratch: kStripRows x groups
  float* panel = nullptr;   // scratch: kStripRows x kChunk
  float* y = nullptr;       // result: tokens x kStripRows
};

template <int kWidth>
struct Vector {
  using Float [[gnu::vector_size(4 * kWidth), gnu::aligned(4), gnu::may_alias]] = float;
};
using Bytes8 [[gnu::vector_size(8)]] = std::uint8_t;
using Float8 [[gnu::vector_size(32), gnu::aligned(4), gnu::may_alias]] = float;

/// `count` codes of one group -> (level - zero) * scale. `from` is where the first code's bits begin (a whole byte).
template <int kBits, bool kTable>
[[gnu::always_inline]] inline void restore(const std::uint8_t* from, std::int64_t count, const float* levels,
                                           float zero, float scale, float* out) noexcept {
  const float shift = levels[0] - zero;  // uniform and symmetric levels: level = levels[0] + code
  for (std::int64_t k = 0; k < count; k += 8, from += kBits) {
    std::uint64_t word = 0;
    if (count - k >= 8)
      std::memcpy(&word, from, kBits);
    else
      std::memcpy(&word, from, static_cast<std::size_t>(pack::stream_bytes(count - k, kBits)));
    word = pack::spread<kBits>(word);
    if constexpr (kTable) {
      for (int l = 0; l < 8; ++l) out[k + l] = (levels[word >> (8 * l) & 0xff] - zero) * scale;
    } else {
      const auto level = __builtin_convertvector(std::bit_cast<Bytes8>(word), Float8);
      *reinterpret_cast<Float8*>(out + k) = (level + shift) * scale;
    }
  }
}

/// y[t][r] += dot(w[r], x[t]) over n columns (a multiple of 16), for kRows x kTokens pairs.
template <int kWidth, int kRows, int kTokens>
[[gnu::always_inline]] inline void dots(const float* w, const float* x, std::int64_t x_stride, std::int64_t n,
                                        float* y) noexcept {
  using Float = typename Vector<kWidth>::Float;
  Float sum[kTokens][kRows] = {};
  for (std::int64_t j = 0; j < n; j += kWidth) {
    Float row[kRows];
    for (int r = 0; r < kRows; ++r) row[r] = *reinterpret_cast<const Float*>(w + r * kChunk + j);
    for (int t = 0; t < kTokens; ++t) {
      const Float v = *reinterpret_cast<const Float*>(x + t * x_stride + j);
      for (int r = 0; r < kRows; ++r) sum[t][r] += row[r] * v;
    }
  }
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r) {
      float total = 0;
      for (int l = 0; l < kWidth; ++l) total += sum[t][r][l];
      y[t * kStripRows + r] += total;
    }
}

template <int kWidth, int kBits, bool kTable>
[[gnu::always_inline]] inline void multiply_strip(const Strip& s) noexcept {
  const Tiling& t = s.weights->tiling();
  const std::int64_t groups = t.groups();
  const std::int64_t x_stride = padded(t.cols);
  const float* levels = s.weights->levels().data();
  for (std::int64_t r = 0; r < s.rows; ++r) {
    s.weights->scales(s.first_row + r, s.scales + r * groups);
    s.weights->zeros(s.first_row + r, s.zeros + r * groups);
  }
  for (std::int64_t k = 0; k < s.tokens * kStripRows; ++k) s.y[k] = 0;
  for (std::int64_t k = 0; k < kStripRows * kChunk; ++k) s.panel[k] = 0;
  const std::int64_t quads = (s.rows + 3) / 4;  // rows beyond the last stay zero
  for (std::int64_t first = 0; first < t.cols; first += kChunk) {
    const std::int64_t cols = std::min(kChunk, t.cols - first);
    const std::int64_t n = padded(cols);
    for (std::int64_t r = 0; r < s.rows; ++r) {
      const std::uint8_t* stream = s.weights->code_stream(s.first_row + r);
      float* out = s.panel + r * kChunk;
      for (std::int64_t at = first; at < first + cols;) {
        const std::int64_t g = at / t.group_size;
        const std::int64_t end = std::min((g + 1) * t.group_size, first + cols);
        restore<kBits, kTable>(stream + at / 8 * kBits, end - at, levels, s.zeros[r * groups + g],
                               s.scales[r * groups + g], out + (at - first));
        at = end;
      }
      for (std::int64_t j = cols; j < n; ++j) out[j] = 0;
    }
    std::int64_t token = 0;
    for (; token + 2 <= s.tokens; token += 2)
      for (std::int64_t q = 0; q < quads; ++q)
        dots<kWidth, 4, 2>(s.panel + 4 * q * kChunk, s.x + token * x_stride + first, x_stride, n,
                           s.y + token * kStripRows + 4 * q);
    if (token < s.tokens)
      for (std::int64_t q = 0; q < quads; ++q)
        dots<kWidth, 4, 1>(s.panel + 4 * q * kChunk, s.x + token * x_stride + first, x_stride, n,
                           s.y + token * kStripRows + 4 * q);
  }
}

template <int kBits, bool kTable>
void strip_portable(const Strip& s) noexcept {
  multiply_strip<4, kBits, kTable>(s);
}
#if defined(__x86_64__)
template <int kBits, bool kTable>
[[gnu::target("avx2,fma")]] void strip_avx2(const Strip& s) noexcept {
  multiply_strip<8, kBits, kTable>(s);
}
template <int kBits, bool kTable>
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,fma")]] void strip_avx512(const Strip& s) noexcept {
  multiply_strip<16, kBits, kTable>(s);
}
#endif

using StripKernel = void (*)(const Strip&) noexcept;

template <int kBits, bool kTable>
[[nodiscard]] StripKernel strip_for_isa() noexcept {
#if defined(__x86_64__)
  if (current_isa() == Isa::avx512) return strip_avx512<kBits, kTable>;
  if (current_isa() == Isa::avx2) return strip_avx2<kBits, kTable>;
#endif
  return strip_portable<kBits, kTable>;
}

[[nodiscard]] inline StripKernel choose_strip(const Format& f) noexcept {
  return core::with_bits(f.bits, [&](auto bits) -> StripKernel {
    if constexpr (bits() <= 4)  // level tables have at most 16 entries
      if (f.levels > Levels::symmetric) return strip_for_isa<bits(), true>();
    return strip_for_isa<bits(), false>();
  });
}

}  // namespace sinq::inline SINQ_ABI::detail::matmul
