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

using pack::kStripRows;
inline constexpr std::int64_t kChunk = 256;
inline constexpr std::int64_t kTokenBlock = 64;

[[nodiscard]] constexpr std::int64_t padded(std::int64_t cols) noexcept {
  return (cols + 15) / 16 * 16;
}

/// A strip to multiply. Rows [first_row, first_row + rows) lie in one panel.
struct Strip {
  const pack::StripReader* weights;
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

template <int kWidth>
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
      float* out = s.panel + r * kChunk;
      std::uint8_t codes[kChunk];
      s.weights->codes(s.first_row + r, first, cols, codes);
      for (std::int64_t at = first; at < first + cols;) {
        const std::int64_t g = at / t.group_size;
        const std::int64_t end = std::min((g + 1) * t.group_size, first + cols);
        const float zero = s.zeros[r * groups + g];
        const float scale = s.scales[r * groups + g];
        for (; at < end; ++at) out[at - first] = (levels[codes[at - first]] - zero) * scale;
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

inline void strip_portable(const Strip& s) noexcept {
  multiply_strip<4>(s);
}
#if defined(__x86_64__)
[[gnu::target("avx2,fma")]] inline void strip_avx2(const Strip& s) noexcept {
  multiply_strip<8>(s);
}
[[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,fma")]] inline void strip_avx512(const Strip& s) noexcept {
  multiply_strip<16>(s);
}
#endif

using StripKernel = void (*)(const Strip&) noexcept;

[[nodiscard]] inline StripKernel choose_strip() noexcept {
#if defined(__x86_64__)
  if (current_isa() == Isa::avx512) return strip_avx512;
  if (current_isa() == Isa::avx2) return strip_avx2;
#endif
  return strip_portable;
}

}  // namespace sinq::inline SINQ_ABI::detail::matmul
