// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "hqq.cuh"
#include "plan.hpp"
#include "round.cuh"

// The kernels that quantize a matrix, in their order. `launch(kernel, blocks, threads, shared bytes, quantization)`
// starts one: on a device, or in the tests' executor.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// Calls visit(number) with a compile-time constant.
template <class Visitor>
void with_number(Number number, Visitor&& visit) {
  if (number == Number::f16) return visit(std::integral_constant<Number, Number::f16>{});
  if (number == Number::bf16) return visit(std::integral_constant<Number, Number::bf16>{});
  visit(std::integral_constant<Number, Number::f32>{});
}

template <class Launch>
void launch_sweep(const Quantization& q, Launch&& launch) {
  constexpr int kItems = kSweepThreads / kSweepLanes;
  with_number(q.number, [&](auto number) {
    const auto with = [&](auto chunks, auto wide) {
      launch(sweep_kernel<number(), chunks(), wide()>, (q.items() + kItems - 1) / kItems, kSweepThreads,
             kSweepSharedBytes, q);
    };
    if (q.padded <= 16)
      with(std::integral_constant<int, 1>{}, std::false_type{});
    else if (q.padded <= 32)
      with(std::integral_constant<int, 2>{}, std::false_type{});
    else if (q.padded <= 64)
      with(std::integral_constant<int, 4>{}, std::false_type{});
    else
      with(std::integral_constant<int, 4>{}, std::true_type{});
  });
}

/// A thread for each of `count` things.
template <class Launch, class Kernel>
void launch_threads(Launch&& launch, Kernel kernel, std::int64_t count, const Quantization& q) {
  launch(kernel, (count + kRoundThreads - 1) / kRoundThreads, kRoundThreads, 0, q);
}

template <class Launch>
void choose_by_hqq(Quantization q, Launch&& launch) {
  launch_threads(launch, choose_hqq_kernel<>, q.row_groups(), q);
  for (q.iteration = 0; q.iteration < q.hqq_rounds; ++q.iteration) {
    launch_threads(launch, refine_kernel<>, q.row_groups() * kSweepLanes, q);
    launch(keep_better_kernel<>, q.tiles(), kKeepThreads, 0, q);
  }
  launch_threads(launch, settle_hqq_kernel<>, q.row_groups(), q);
}

/// Scales, zeros and column scales, not yet in their stored form, and what is wrong with them. `largest` and `faults`
/// are zero at the start.
template <class Launch>
void choose_factors(Quantization q, Launch&& launch) {
  constexpr int kItems = kSweepThreads / kSweepLanes;
  launch(find_largest_kernel<>, (q.items() + kItems - 1) / kItems, kSweepThreads, 0, q);
  const int iterations = q.sinkhorn.iterations > 1 ? q.sinkhorn.iterations : 1;
  for (q.iteration = 0; q.balanced && q.iteration < iterations; ++q.iteration) {
    launch_sweep(q, launch);
    launch(judge_kernel<>, q.tiles(), kJudgeThreads, kJudgeSharedBytes, q);
  }
  if (q.balanced) launch_threads(launch, invert_columns_kernel<>, q.w.panels * q.padded_cols(), q);
  if (q.hqq_rounds != 0)
    choose_by_hqq(q, launch);
  else
    launch_threads(launch, choose_kernel<>, q.row_groups(), q);
  if (q.w.header != 0)
    launch_threads(launch, choose_coarse_kernel<>,
                   std::int64_t{q.w.rows} * ((q.w.groups + q.w.coarse_groups - 1) / q.w.coarse_groups), q);
}

/// Everything into the matrix, whose memory is zero at the start.
template <class Launch>
void store_matrix(const Quantization& q, Launch&& launch) {
  launch_threads(launch, store_records_kernel<>, q.strips * q.w.groups, q);
  if (q.balanced) launch_threads(launch, store_columns_kernel<>, std::int64_t{q.w.panels} * q.w.cols, q);
  with_codes(q.w.bits, q.w.paired, [&](auto bits, auto paired) {
    launch_threads(launch, encode_kernel<bits(), paired()>, q.strips * q.w.units * kLanes, q);
  });
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
