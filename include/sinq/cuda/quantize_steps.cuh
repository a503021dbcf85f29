// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "hqq.cuh"
#include "kurtosis.cuh"
#include "plan.hpp"
#include "unbias.cuh"

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
void launch_threads(Launch&& launch, Kernel kernel, std::int64_t count, const Quantization& q, int shared_bytes = 0) {
  launch(kernel, (count + kRoundThreads - 1) / kRoundThreads, kRoundThreads, shared_bytes, q);
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

/// Closes the gate, or not.
template <class Launch>
void measure_moments(Quantization q, Launch&& launch) {
  for (q.iteration = 0; q.iteration < 2; ++q.iteration) {
    launch_threads(launch, measure_moments_kernel<>, std::int64_t{q.w.rows} * kSweepLanes, q);
    launch(add_moments_kernel<>, 1, kLanes, 0, q);
  }
}

/// Calls visit(levels) with FitCoding's constant.
template <class Visitor>
void with_levels(const Quantization& q, Visitor&& visit) {
  if (q.fit.levels == 16) return visit(std::integral_constant<int, 16>{});
  if (q.fit.levels == 8) return visit(std::integral_constant<int, 8>{});
  if (q.fit.levels == 4) return visit(std::integral_constant<int, 4>{});
  visit(std::integral_constant<int, 0>{});
}

/// A thread for each group of each row: `narrow` takes those of 16 columns, `wide` all others; `weighted`, where
/// columns differ in importance, all.
template <class Launch, class Kernel>
void launch_groups(Quantization q, Launch&& launch, Kernel narrow, Kernel wide, Kernel weighted) {
  const int narrow_groups = q.w.group_size == 16 && !q.weighted ? q.w.cols / 16 : 0;
  const auto from_to = [&](Kernel kernel, int first, int end) {
    q.first_group = first;
    q.end_group = end;
    if (first < end) launch_threads(launch, kernel, std::int64_t{q.w.rows} * (end - first), q, kFitSharedBytes);
  };
  from_to(narrow, 0, narrow_groups);
  from_to(q.weighted ? weighted : wide, narrow_groups, q.w.groups);
}

template <class Launch>
void choose_by_fit(const Quantization& q, Launch&& launch) {
  if (q.weighted) launch(weigh_columns_kernel<>, q.w.panels, kLanes, 0, q);
  with_levels(q, [&](auto levels) {
    const auto fit = [&](auto zero) {
      constexpr int kLevels = levels();
      constexpr bool kZero = zero();
      const std::int64_t coarse = std::int64_t{q.w.rows} * q.coarse_blocks();
      launch_groups(q, launch, fit_groups_kernel<16, kLevels, kZero, false>,
                    fit_groups_kernel<0, kLevels, kZero, false>, fit_groups_kernel<0, kLevels, kZero, true>);
      if (q.w.header != 0) launch_threads(launch, fit_coarse_kernel<>, coarse * kLanes, q);
      launch_groups(q, launch, settle_groups_kernel<16, kLevels, kZero, false>,
                    settle_groups_kernel<0, kLevels, kZero, false>, settle_groups_kernel<0, kLevels, kZero, true>);
      launch_threads(launch, measure_rows_kernel<kLevels>, std::int64_t{q.w.rows} * kSweepLanes, q, kFitSharedBytes);
      launch_threads(launch, check_scales_kernel<>, q.w.header != 0 ? coarse : q.row_groups(), q);
    };
    if (q.w.zero.bits == 0)
      fit(std::false_type{});
    else
      fit(std::true_type{});
  });
}

/// Scales have turned out not to fit their float type: they take f32, and a fit is done again with it.
template <class Launch>
void widen(Quantization& q, Launch&& launch) {
  q.w.scale.number = Number::f32;
  if (q.fitted) choose_by_fit(q, launch);
}

template <class Launch>
void unbias_columns(const Quantization& q, Launch&& launch) {
  with_levels(q, [&](auto levels) {
    launch_threads(launch, measure_columns_kernel<levels()>, std::int64_t{q.w.panels} * q.blocks * q.w.cols, q,
                   kFitSharedBytes);
  });
  launch_threads(launch, unbias_columns_kernel<>, std::int64_t{q.w.panels} * q.w.cols, q);
}

/// Scales, zeros and column scales, not yet in their stored form, and what is wrong with them. `findings` and `largest`
/// are zero at the start.
template <class Launch>
void choose_factors(Quantization q, Launch&& launch) {
  constexpr int kItems = kSweepThreads / kSweepLanes;
  if (q.kurtosis_gate != 0) measure_moments(q, launch);
  launch(find_largest_kernel<>, (q.items() + kItems - 1) / kItems, kSweepThreads, 0, q);
  const int iterations = q.sinkhorn.iterations > 1 ? q.sinkhorn.iterations : 1;
  for (q.iteration = 0; q.balanced && q.iteration < iterations; ++q.iteration) {
    launch_sweep(q, launch);
    launch(judge_kernel<>, q.tiles(), kJudgeThreads, kJudgeSharedBytes, q);
  }
  if (q.balanced) launch_threads(launch, invert_columns_kernel<>, q.w.panels * q.padded_cols(), q);
  if (q.fitted) return choose_by_fit(q, launch);
  if (q.hqq_rounds != 0)
    choose_by_hqq(q, launch);
  else
    launch_threads(launch, choose_kernel<>, q.row_groups(), q);
  if (q.w.header != 0) launch_threads(launch, choose_coarse_kernel<>, std::int64_t{q.w.rows} * q.coarse_blocks(), q);
}

/// Everything into the matrix: all of its memory but the gaps, which are zero.
template <class Launch>
void store_matrix(const Quantization& q, Launch&& launch) {
  if (q.fitted && q.balanced) unbias_columns(q, launch);
  launch_threads(launch, store_records_kernel<>, q.strips * q.w.records(), q);
  if (q.balanced) launch_threads(launch, store_columns_kernel<>, std::int64_t{q.w.panels} * q.w.cols, q);
  with_codes(q.w.bits, q.w.paired, [&](auto bits, auto paired) {
    launch_threads(launch, encode_kernel<bits(), paired()>, q.strips * q.w.units * kLanes, q);
  });
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
