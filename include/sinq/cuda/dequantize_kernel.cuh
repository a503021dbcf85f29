// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "decode.cuh"

// Weights back as numbers: a warp takes a unit (16 rows x 64 columns), a lane the 32 weights that it holds as an
// operand. Each lane writes four columns at once, four lanes a whole sector of 32 bytes.

namespace sinq::inline SINQ_ABI::detail::cuda {

struct Restoration {
  Weights w;
  void* out = nullptr;
  std::int64_t stride = 0;  // elements from row to row
  Number number = Number::f16;
  bool aligned = false;          // every row begins at a multiple of four elements' size
  std::int64_t strips = 0;       // how many
  std::int64_t first_strip = 0;  // which ones
  std::int64_t first_row = 0;    // where `out` begins
};

template <int kBits, bool kPaired>
SINQ_CUDA_DEVICE void dequantize_block(const Restoration& r) {
  const Weights& w = r.w;
  const int lane = static_cast<int>(thread_index()) % kLanes, group = lane / 4, t = lane % 4;
  const std::int64_t index =
      r.first_strip * w.units + std::int64_t{block_index().x} * (thread_count() / kLanes) + thread_index() / kLanes;
  const std::int64_t strip = index / w.units;
  if (strip >= r.first_strip + r.strips) return;
  const int unit = static_cast<int>(index - strip * w.units);
  const int panel = static_cast<int>(strip / w.panel_strips);
  const int row_in_panel = static_cast<int>(strip - std::int64_t{panel} * w.panel_strips) * kStripRows;
  const int first_row = panel * w.tile_height + row_in_panel;

  const std::uint8_t* codes = w.codes + index * unit_bytes(kBits);
  std::uint32_t words[kBits];
  SINQ_CUDA_UNROLL
  for (int k = 0; k < kBits; ++k) words[k] = load_global<std::uint32_t>(codes + 4 * word_in_unit(kBits, lane, k));
  const std::uint8_t* aux = w.aux + strip * w.aux_stride;

  SINQ_CUDA_UNROLL
  for (int step = 0; step < 4; ++step) {
    const int col = unit * kUnitCols + step * kStepCols + 4 * t;
    const int count = w.cols - col < 4 ? w.cols - col : 4;
    if (count <= 0) continue;
    float col_scale[4] = {1, 1, 1, 1};
    if (w.has_col_scale)
      load_numbers(w.col_number, w.col_scale, std::int64_t{panel} * w.units * kUnitCols + col, 4, true, col_scale);
    const RecordCursor record = RecordCursor::at(w, col);
    SINQ_CUDA_UNROLL
    for (int upper = 0; upper < 2; ++upper) {
      const int row = group + 8 * upper;
      if (row_in_panel + row >= w.tile_height || first_row + row >= w.rows) continue;
      const StoredFactors f = load_factors(w, aux, record, row, col / w.group_size);
      float v[4];
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t code = code_at<kBits, kPaired>(words, 2 * step + i / 2, upper, i % 2);
        float level = static_cast<float>(code);
        if constexpr (kPaired) level = w.levels[code];
        // From left to right, as on the CPU: the same bits.
        v[i] = multiply(multiply(level - f.zero, f.scale), col_scale[i]);
      }
      const std::int64_t to = (first_row + row - r.first_row) * r.stride + col;
      if (!r.aligned || count < 4) {
        for (int i = 0; i < 4; ++i)
          if (i < count) store_number(r.number, r.out, to + i, v[i]);
      } else if (r.number == Number::f32) {
        store_global(static_cast<std::uint8_t*>(r.out) + 4 * to,
                     Words4{{as_bits(v[0]), as_bits(v[1]), as_bits(v[2]), as_bits(v[3])}});
      } else {
        Words2 two;
        SINQ_CUDA_UNROLL
        for (int i = 0; i < 2; ++i) {
          const float low = v[2 * i], high = v[2 * i + 1];
          two.w[i] = r.number == Number::f16 ? to_half(low) | static_cast<std::uint32_t>(to_half(high)) << 16
                                             : to_bfloat16(low) | static_cast<std::uint32_t>(to_bfloat16(high)) << 16;
        }
        store_global(static_cast<std::uint8_t*>(r.out) + 2 * to, two);
      }
    }
  }
}

template <int kBits, bool kPaired>
SINQ_CUDA_KERNEL dequantize_kernel(const Restoration r) {
  dequantize_block<kBits, kPaired>(r);
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
