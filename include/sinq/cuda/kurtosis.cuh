// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "decode.cuh"
#include "quantization.hpp"

// The kurtosis of a matrix: balance/kurtosis.hpp with the same bits, two passes over the weights; and what it decides.
//
//   per pass:
//     measure_moments   16 threads per row, a lane's columns each, folded in halves
//     add_moments       a warp: rows in their order, 0.1 ms for 8192; after the second pass it closes the gate, or not
//
// A closed gate ends the balancing of every tile at its first iterate, whose factors are 1: what follows computes what
// it would for a matrix that is not balanced.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// Where what lies in `moments`: of each row the sum, of the first pass, then second and fourth moments, of the second
/// pass; and the sum of all.
SINQ_CUDA_DEVICE double* moments_of_rows(const Quantization& q, int k) {
  return q.moments + std::int64_t{k} * q.w.rows;
}
SINQ_CUDA_DEVICE double* sum_of_all(const Quantization& q) {
  return moments_of_rows(q, kMoments);
}

SINQ_CUDA_DEVICE double weight_count(const Quantization& q) {
  return static_cast<double>(q.w.rows) * q.w.cols;
}

SINQ_CUDA_DEVICE bool gate_closed(const Quantization& q) {
  return q.kurtosis_gate != 0 && load_global<std::uint64_t>(q.findings + kGateClosed) != 0;
}

SINQ_CUDA_DEVICE void measure_moments_block(const Quantization& q) {
  const std::int64_t row = global_thread() / kSweepLanes;
  const int lane = static_cast<int>(thread_index()) % kSweepLanes;
  const bool exists = row < q.w.rows, first_pass = q.iteration == 0;
  const double mean = first_pass ? 0 : load_global<double>(sum_of_all(q)) / weight_count(q);
  double sum = 0, fourth = 0;
  for (int j = lane; exists && j < q.w.cols; j += kSweepLanes) {
    const double d = double{load_number(q.number, q.weights, row * q.stride + j)} - mean, d2 = d * d;
    sum = first_pass ? sum + d : fused(d, d, sum);
    fourth = fused(d2, d2, fourth);
  }
  const int in_warp = static_cast<int>(thread_index()) % kLanes;
  for (int half = kSweepLanes / 2; half > 0; half /= 2) {
    sum += shuffle(sum, in_warp ^ half);
    fourth += shuffle(fourth, in_warp ^ half);
  }
  if (!exists || lane != 0) return;
  store_global(moments_of_rows(q, first_pass ? 0 : 1) + row, sum);
  if (!first_pass) store_global(moments_of_rows(q, 2) + row, fourth);
}

template <int = 0>
SINQ_CUDA_KERNEL measure_moments_kernel(const Quantization q) {
  measure_moments_block(q);
}

/// value(0) + value(1) + ..., one after the other; by a warp, all of which get the sum.
template <class Value>
SINQ_CUDA_DEVICE double add_in_order(int count, Value&& value) {
  const int lane = static_cast<int>(thread_index()) % kLanes;
  double sum = 0;
  for (int i = 0; i < count; i += kLanes) {
    const auto mine = i + lane < count ? value(i + lane) : decltype(value(0)){0};
    SINQ_CUDA_UNROLL
    for (int l = 0; l < kLanes; ++l) sum += double{shuffle(mine, l)};
  }
  return sum;
}

SINQ_CUDA_DEVICE void add_moments_block(const Quantization& q) {
  const bool first_pass = q.iteration == 0;
  const auto total = [&](int k) {
    return add_in_order(q.w.rows, [&](int row) { return load_global<double>(moments_of_rows(q, k) + row); });
  };
  const double sum = total(first_pass ? 0 : 1), fourth = first_pass ? 0 : total(2);
  if (thread_index() != 0) return;
  if (first_pass) return store_global(sum_of_all(q), sum);
  const double count = weight_count(q), second = sum / count;  // balance::kurtosis_of
  const double kurtosis = second == 0 ? 0 : fourth / count / (second * second);
  if (kurtosis > q.kurtosis_gate) raise_global(q.findings + kGateClosed, std::uint64_t{1});
}

template <int = 0>
SINQ_CUDA_KERNEL add_moments_kernel(const Quantization q) {
  add_moments_block(q);
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
