// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "fit.cuh"

// The gains of rows and columns after a fit: quantize/unbias.hpp with the same bits, sums in double and in the CPU's
// order. A code is chosen again by each kernel that needs it, which is cheaper than a byte of memory per weight.
//
//   measure_rows      16 threads per row, a lane's columns each, folded in halves
//   check_scales      a thread per row and group, or coarse scale: with the gain, do they fit their type?
// and when that is known:
//   measure_columns   a thread per column and 128 rows
//   unbias_columns    a thread per column

namespace sinq::inline SINQ_ABI::detail::cuda {

/// A weight in the balanced domain, and what its code restores.
struct Pair {
  Lane x, y;
};
template <class Coding>
SINQ_CUDA_DEVICE Pair restored(const Coding& coding, Lane x, const ScaleZero& f) {
  return {x, (coding.nearest(x / f.scale + f.zero) - f.zero) * f.scale};
}

/// Whether a row has only the least coarse scale.
SINQ_CUDA_DEVICE bool is_tiny(const Quantization& q, int row) {
  if (q.w.header == 0) return false;
  for (int block = 0; block < q.coarse_blocks(); ++block)
    if (load_global<float>(q.fitted_coarse + q.at_row(row, block)) > quantize::kLeastCoarse) return false;
  return true;
}

template <int kLevels>
SINQ_CUDA_DEVICE void measure_rows_block(const Quantization& q) {
  const FitCoding<kLevels> coding(q);
  const int lane = static_cast<int>(thread_index()) % kSweepLanes;
  const std::int64_t index = global_thread() / kSweepLanes;
  const int row = static_cast<int>(index), groups = index < q.w.rows ? q.w.groups : 0;
  BalancedGroup g{};
  if (groups != 0) g = BalancedGroup::of(q, row, 0);
  Overlap o;
  for (int group = 0; group < groups; ++group, g.advance(q)) {
    const ScaleZero f = coding_factors(q, row, group);
    const int cols = q.group_cols(group);
    for (int j = lane; j < cols; j += kSweepLanes) {
      const Pair p = restored(coding, g(q, j), f);
      const double x = double{p.x.value()};
      o.xx = fused(x, x, o.xx);
      o.xy = fused(x, double{p.y.value()}, o.xy);
    }
  }
  const int in_warp = static_cast<int>(thread_index()) % kLanes;
  for (int half = kSweepLanes / 2; half > 0; half /= 2) {
    o.xx += shuffle(o.xx, in_warp ^ half);
    o.xy += shuffle(o.xy, in_warp ^ half);
  }
  if (groups == 0 || lane != 0) return;
  store_global(q.gain + row, o.gain(q.w.bits, 0.7, 1.3));
  const auto inverse_norm = o.xx > 0 && !is_tiny(q, row) ? static_cast<float>(1 / square_root(o.xx)) : 0.0f;
  store_global(q.row_share + row, is_finite(inverse_norm) ? inverse_norm : 0.0f);  // 0: the row does not count
}

template <int kLevels>
SINQ_CUDA_KERNEL measure_rows_kernel(const Quantization q) {
  measure_rows_block<kLevels>(q);
}

SINQ_CUDA_DEVICE void check_scales_block(const Quantization& q) {
  const std::int64_t at = global_thread();
  const RowGroup i = RowGroup::at(q, at);
  if (i.group >= (q.w.header != 0 ? q.coarse_blocks() : q.w.groups)) return;
  const float gain = load_global<float>(q.gain + i.row);
  if (q.w.header == 0) {
    const float scale = multiply(load_global<float>(q.scale + at), gain);
    if (scale != 0 && !fits(q.w.scale.number, scale))
      raise_global(q.findings + kBeyondAux, ~static_cast<std::uint64_t>(at));
    return;
  }
  const float gained = stored(Number::f16, multiply(load_global<float>(q.fitted_coarse + at), gain));
  settle_coarse(q, i, load_global<float>(q.coarse + at) == 0 ? kZerosScale : gained);
}

template <int = 0>
SINQ_CUDA_KERNEL check_scales_kernel(const Quantization q) {
  check_scales_block(q);
}

template <int kLevels>
SINQ_CUDA_DEVICE void measure_columns_block(const Quantization& q) {
  const FitCoding<kLevels> coding(q);
  const std::int64_t index = global_thread(), panel_block = index / q.w.cols;
  const int panel = static_cast<int>(panel_block / q.blocks);
  if (panel >= q.w.panels) return;
  const int first = static_cast<int>(panel_block - std::int64_t{panel} * q.blocks) * kSweepRows;
  const int left = panel_rows(q, panel) - first, rows = left < kSweepRows ? left : kSweepRows;
  const int first_row = panel * q.w.tile_height + first;
  const int col = static_cast<int>(index - panel_block * q.w.cols), group = col / q.w.group_size;
  const std::int64_t padded_col = q.padded_col(col);
  const float col_inverse = load_global<float>(q.col_inverse + panel * q.padded_cols() + padded_col);
  Overlap o;
  for (int row = first_row; row < first_row + rows; ++row) {
    const Lane x = multiply(load_number(q.number, q.weights, row * q.stride + col), col_inverse);
    const Pair p = restored(coding, x, coding_factors(q, row, group));
    const Lane share = load_global<float>(q.row_share + row);
    const Lane u = p.x * share, v = p.y * (share * load_global<float>(q.gain + row));
    o.xx = fused(double{u.value()}, double{u.value()}, o.xx);
    o.xy = fused(double{u.value()}, double{v.value()}, o.xy);
  }
  store_global(q.overlap_xx + panel_block * q.padded_cols() + padded_col, o.xx);
  store_global(q.overlap_xy + panel_block * q.padded_cols() + padded_col, o.xy);
}

template <int kLevels>
SINQ_CUDA_KERNEL measure_columns_kernel(const Quantization q) {
  measure_columns_block<kLevels>(q);
}

SINQ_CUDA_DEVICE void unbias_columns_block(const Quantization& q) {
  const std::int64_t index = global_thread();
  const int panel = static_cast<int>(index / q.w.cols);
  if (panel >= q.w.panels || gate_closed(q)) return;
  const std::int64_t padded_col = q.padded_col(static_cast<int>(index - std::int64_t{panel} * q.w.cols));
  const int blocks = (panel_rows(q, panel) + kSweepRows - 1) / kSweepRows;
  Overlap o;
  for (int b = 0; b < blocks; ++b) {
    const std::int64_t at = (std::int64_t{panel} * q.blocks + b) * q.padded_cols() + padded_col;
    o.xx += load_global<double>(q.overlap_xx + at);
    o.xy += load_global<double>(q.overlap_xy + at);
  }
  float* const col = q.best_col + panel * q.padded_cols() + padded_col;
  const float after = multiply(load_global<float>(col), o.gain(q.w.bits, 0.7, 1.4));
  if (fits(q.w.col_number, after)) store_global(col, after);
}

template <int = 0>
SINQ_CUDA_KERNEL unbias_columns_kernel(const Quantization q) {
  unbias_columns_block(q);
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
