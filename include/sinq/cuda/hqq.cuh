// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "arithmetic.cuh"
#include "kurtosis.cuh"
#include "round.cuh"

// HQQ refinement: quantize/hqq.hpp with the same bits.
//
//   choose_hqq      a thread per row and group: scale of first choice, fractional zero
//   per round:
//     refine        16 threads per row and group: new zeros from old ones, and the error that the old ones leave
//     keep_better   a warp per tile: adds up the errors of its rows, in their order; is this the best round so far?
//   settle_hqq      a thread per row and group: the row's factor comes back into the scale
//
// A weight costs some 100 instructions per round, most of them the power of the shrinkage; 20 rounds keep an H200 busy
// for 4 ms with 8192 x 8192 weights and every issue slot filled. A tile's errors are added one after the other
// because the CPU does: 8192 rows take 0.1 ms per round, all tiles at once.

namespace sinq::inline SINQ_ABI::detail::cuda {

inline constexpr int kKeepThreads = kLanes;

/// quantize::hqq_first_choice
SINQ_CUDA_DEVICE void choose_hqq_block(const Quantization& q) {
  const std::int64_t at = global_thread();
  if (at >= q.row_groups()) return;
  const RowGroup i = RowGroup::at(q, at);
  const BalancedGroup g = BalancedGroup::of(q, i.row, i.group);
  const float scale = choose_min_max(q, g).scale;
  float low = as_float(0x7f80'0000u);
  g.each(q, [&](int, float x) { low = x < low ? x : low; });
  const float zero = scale == 0 ? 0.0f : 0.0f - divide(low, scale);
  store_global(q.scale + at, scale);
  store_global(q.zero + at, zero);
  store_global(q.round_zero + at, zero);
}

template <int = 0>
SINQ_CUDA_KERNEL choose_hqq_kernel(const Quantization q) {
  choose_hqq_block(q);
}

/// core::fold of the values of 16 lanes: 16 -> 8 -> 4 -> 2 -> 1; all get the result.
SINQ_CUDA_DEVICE float fold_lanes(float value) {
  const int lane = static_cast<int>(thread_index()) % kLanes;
  SINQ_CUDA_UNROLL
  for (int half = kSweepLanes / 2; half > 0; half /= 2) value += shuffle(value, lane ^ half);
  return value;
}

/// quantize::HqqRound
SINQ_CUDA_DEVICE void refine_block(const Quantization& q) {
  const std::int64_t at = global_thread() / kSweepLanes;
  const int lane = static_cast<int>(thread_index()) % kSweepLanes;
  const bool exists = at < q.row_groups();
  float scale = 0, zero = 0, error = 0, sum = 0;
  int cols = 0;
  if (exists) {
    const RowGroup i = RowGroup::at(q, at);
    const BalancedGroup g = BalancedGroup::of(q, i.row, i.group);
    cols = g.cols;
    scale = load_global<float>(q.scale + at);
    zero = load_global<float>(q.round_zero + at);
    const float inverse_scale = divide(1, scale);
    for (int j = lane; j < cols && scale >= quantize::kHqqLeastScale; j += kSweepLanes) {
      const auto step = HqqStep<Lane>::of(q.shrinkage, g(q, j), scale, inverse_scale, zero);
      error += step.size.value();
      sum += step.wanted.value();
    }
  }
  error = fold_lanes(error);
  sum = fold_lanes(sum);
  warp_barrier();  // all have read what is written now
  if (!exists || lane != 0) return;
  store_global(q.round_error + at, error);
  if (scale >= quantize::kHqqLeastScale) store_global(q.round_zero + at, divide(sum, static_cast<float>(cols)));
}

template <int = 0>
SINQ_CUDA_KERNEL refine_kernel(const Quantization q) {
  refine_block(q);
}

SINQ_CUDA_DEVICE void keep_better_block(const Quantization& q) {
  const std::int64_t tile = block_index().x;
  const int panel = static_cast<int>(tile / q.w.groups);
  const std::int64_t first =
      q.at_row(panel * q.w.tile_height, static_cast<int>(tile - std::int64_t{panel} * q.w.groups));
  const int rows = panel_rows(q, panel), lane = static_cast<int>(thread_index());
  const double error = add_in_order(rows, [&](int i) { return load_global<float>(q.round_error + first + i); });
  const double best = q.iteration == 0 ? double{as_float(0x7f80'0000u)} : load_global<double>(q.hqq_error + tile);
  const bool better = error < best;
  for (int i = lane; better && i < rows; i += kLanes)
    store_global(q.zero + first + i, load_global<float>(q.round_zero + first + i));
  warp_barrier();  // all have read what is written now
  if (lane == 0) store_global(q.hqq_error + tile, better ? error : best);
}

template <int = 0>
SINQ_CUDA_KERNEL keep_better_kernel(const Quantization q) {
  keep_better_block(q);
}

SINQ_CUDA_DEVICE void settle_hqq_block(const Quantization& q) {
  const std::int64_t at = global_thread();
  if (at >= q.row_groups()) return;
  const float row = q.best_row != nullptr ? load_global<float>(q.best_row + at) : 1.0f;
  settle(q, at, {multiply(load_global<float>(q.scale + at), row), load_global<float>(q.zero + at)});
}

template <int = 0>
SINQ_CUDA_KERNEL settle_hqq_kernel(const Quantization q) {
  settle_hqq_block(q);
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
