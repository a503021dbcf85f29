// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "job.hpp"

// The portable kernel: a strip of rows times a block of tokens, in float, with no other assumption about the machine
// than vectors of four floats.
//
//   for each chunk of kChunk columns:
//     restore   strip rows x chunk   w = (level(code) - zero) * scale, into L1
//     multiply  tokens x rows        4 rows x 2 tokens of dot products at a time, each in a vector register

namespace sinq::inline SINQ_ABI::detail::matmul {

using FourFloats [[gnu::vector_size(16), gnu::aligned(4), gnu::may_alias]] = float;

/// y[t][r] += dot(w[r], x[t]) over n columns (a multiple of 16), for kRows x kTokens pairs.
template <int kRows, int kTokens>
[[gnu::always_inline]] inline void dots(const float* w, const float* x, std::int64_t x_stride, std::int64_t n,
                                        float* y) noexcept {
  FourFloats sum[kTokens][kRows] = {};
  for (std::int64_t j = 0; j < n; j += 4) {
    FourFloats row[kRows];
    for (int r = 0; r < kRows; ++r) row[r] = *reinterpret_cast<const FourFloats*>(w + r * kChunk + j);
    for (int t = 0; t < kTokens; ++t) {
      const FourFloats v = *reinterpret_cast<const FourFloats*>(x + t * x_stride + j);
      for (int r = 0; r < kRows; ++r) sum[t][r] += row[r] * v;
    }
  }
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r) {
      float total = 0;
      for (int l = 0; l < 4; ++l) total += sum[t][r][l];
      y[t * kStripRows + r] += total;
    }
}

inline void strip_portable(const Job& job) noexcept {
  const pack::StripReader& w = *job.weights;
  const pack::StripOrder& o = w.order();
  const std::int64_t x_stride = job.x->token;
  const std::int64_t rows = o.rows(job.strip);
  const std::int64_t quads = (rows + 3) / 4;  // rows beyond the last stay zero
  const float* levels = w.levels().data();
  float* const scales = job.scratch;
  float* const zeros = scales + kStripRows * pack::kMostBlockGroups;
  float* const restored = zeros + kStripRows * pack::kMostBlockGroups;
  for (std::int64_t k = 0; k < job.tokens * kStripRows; ++k) job.y[k] = 0;
  for (std::int64_t k = 0; k < kStripRows * kChunk; ++k) restored[k] = 0;
  for (std::int64_t b = 0; b < o.blocks; ++b) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t row = o.first_row(job.strip) + r;
      w.scales(row, b * o.block, o.block_groups(b), scales + r * pack::kMostBlockGroups);
      w.zeros(row, b * o.block, o.block_groups(b), zeros + r * pack::kMostBlockGroups);
    }
    for (std::int64_t first = 0; first < o.block_cols(b); first += kChunk) {
      const std::int64_t cols = std::min(kChunk, o.block_cols(b) - first);
      const std::int64_t n = whole_units(cols);
      for (std::int64_t r = 0; r < rows; ++r) {
        float* out = restored + r * kChunk;
        std::uint8_t codes[kChunk];
        w.codes(o.first_row(job.strip) + r, o.block_begin(b) + first, cols, codes);
        for (std::int64_t at = first; at < first + cols;) {
          const std::int64_t g = at / o.tiling.group_size;
          const std::int64_t end = std::min((g + 1) * o.tiling.group_size, first + cols);
          const float zero = zeros[r * pack::kMostBlockGroups + g];
          const float scale = scales[r * pack::kMostBlockGroups + g];
          for (; at < end; ++at) out[at - first] = (levels[codes[at - first]] - zero) * scale;
        }
        for (std::int64_t j = cols; j < n; ++j) out[j] = 0;
      }
      const float* x = job.x->floats(0) + o.block_begin(b) + first;
      std::int64_t token = 0;
      for (; token + 2 <= job.tokens; token += 2)
        for (std::int64_t q = 0; q < quads; ++q)
          dots<4, 2>(restored + 4 * q * kChunk, x + token * x_stride, x_stride, n, job.y + token * kStripRows + 4 * q);
      if (token < job.tokens)
        for (std::int64_t q = 0; q < quads; ++q)
          dots<4, 1>(restored + 4 * q * kChunk, x + token * x_stride, x_stride, n, job.y + token * kStripRows + 4 * q);
    }
  }
}

}  // namespace sinq::inline SINQ_ABI::detail::matmul
