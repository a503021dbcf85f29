// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "arithmetic.cuh"
#include "round.cuh"

// Refine::fit: quantize/fit.hpp with the same bits. Where a lane of the CPU's vectors has a row, a thread has a row and
// a group, and adds up its columns in the same order, so no sum is shared between threads.
//
//   weigh_columns   a warp per panel, where columns count by the activations: quantize/importance.hpp
//   fit_groups      a thread per row and group: the line of least error
//   fit_coarse      a warp per row and coarse scale, where scales are integers: a lane for each of the 24 that it tries
//   settle_groups   a thread per row and group: scale and zero as they can be stored
//
// A group of 16 columns, as all presets but one have it, stays in registers from the first pass over it to the last:
// there are 12 in fit_groups (both signs, 3 starts, 2 rounds; 6 where the scale has no sign), and 3 (without a zero) or
// 15 in settle_groups. Wider groups, and the short one at the end of a row, are read again in each pass.
//
// With the tables of 16 levels a pass takes 22 instructions per weight, 4 of them look-ups in shared memory, and all of
// preset(4.5) beside the balancing some 700: 1.4 ms of an H200 for 8192 x 8192 weights with every issue slot filled.

namespace sinq::inline SINQ_ABI::detail::cuda {

/// kLevels: 0, or the size of the codebook, which then takes kFitSharedBytes of shared memory: its 16 boundaries, or
/// its 16 levels, lie in 16 banks, so that all lanes look up theirs at once.
inline constexpr int kFitSharedBytes = 2 * 16 * 4;

template <int kLevels>
class FitCoding {
 public:
  /// All threads of the block make theirs together.
  SINQ_CUDA_DEVICE explicit FitCoding(const Quantization& q) : q_(q), table_(shared_base()) {
    if constexpr (kLevels != 0) {
      if (thread_index() == 0) {
        SINQ_CUDA_UNROLL
        for (int k = 0; k < kLevels; ++k) {
          store_shared(table_ + 4 * static_cast<std::uint32_t>(k), q.fit.middle[k]);
          store_shared(table_ + 4 * static_cast<std::uint32_t>(16 + k), q.fit.level[k]);
        }
      }
      barrier();
    }
  }

  [[nodiscard]] SINQ_CUDA_DEVICE const quantize::FitRules& rules() const { return q_.fit; }

  /// As many of the ascending boundaries as lie below the position: a binary search.
  [[nodiscard]] SINQ_CUDA_DEVICE Lane nearest(Lane position) const {
    if constexpr (kLevels == 0) {
      return round(clamp(position, q_.fit.low, q_.fit.high));
    } else {
      std::uint32_t at = table_ + (Lane(q_.fit.middle[kLevels / 2 - 1]) < position ? 4 * kLevels / 2 : 0);
      SINQ_CUDA_UNROLL
      for (std::uint32_t half = kLevels / 4; half > 0; half /= 2)
        at += Lane(load_shared<float>(at + 4 * (half - 1))) < position ? 4 * half : 0;
      return load_shared<float>(at + 4 * 16);
    }
  }
  template <bool kZero, class Group, class Use>
  SINQ_CUDA_DEVICE void each_level(const Group& g, Lane b, Lane inverse, Use& use) const {
    SINQ_CUDA_UNROLL
    for (int j = 0; j < g.cols; ++j) {
      const Lane x = g[j];
      use(j, x, nearest(kZero ? (x - b) * inverse : x * inverse));
    }
  }
  [[nodiscard]] SINQ_CUDA_DEVICE Lane scale_as_stored(Lane v) const { return stored(q_.w.scale.number, v.value()); }
  [[nodiscard]] SINQ_CUDA_DEVICE Lane zero_as_stored(Lane v) const { return stored(q_.w.zero.number, v.value()); }
  [[nodiscard]] SINQ_CUDA_DEVICE Lane coarse_as_stored(Lane v) const { return stored(Number::f16, v.value()); }

 private:
  const Quantization& q_;
  std::uint32_t table_;
};

SINQ_CUDA_DEVICE void weigh_columns_block(const Quantization& q) {
  const auto panel = static_cast<int>(block_index().x);
  const std::int64_t first_col = panel * q.padded_cols();
  const auto count = [&](int col) {
    const double c = q.balanced ? double{load_global<float>(q.best_col + first_col + q.padded_col(col))} : 1.0;
    return load_global<double>(q.mean_square + col) * (c * c);
  };
  const double mean = add_in_order(q.w.cols, count) / q.w.cols;
  const auto share = [&](int col) {
    const double of_mean = mean > 0 ? count(col) / mean : 1.0;
    return of_mean < quantize::kLeastImportance ? quantize::kLeastImportance : of_mean;
  };
  for (int group = static_cast<int>(thread_index()); group < q.w.groups; group += kLanes) {
    const int first = group * q.w.group_size, cols = q.group_cols(group);
    double sum = 0;
    for (int j = 0; j < cols; ++j) sum += share(first + j);
    const double of_group = sum / cols;
    store_global(q.group_importance + std::int64_t{panel} * q.w.groups + group, static_cast<float>(of_group));
    for (int j = 0; j < cols; ++j)
      store_global(q.importance + first_col + q.padded_col(first + j), static_cast<float>(share(first + j) / of_group));
  }
}

template <int = 0>
SINQ_CUDA_KERNEL weigh_columns_kernel(const Quantization q) {
  weigh_columns_block(q);
}

/// What fit_group.inc calls a Group. kCols: 16, in registers, or 0: any number, read when asked for. kWeighted: whether
/// columns differ in importance; then kCols is 0.
template <int kCols, bool kWeighted>
struct FitGroup {
  static_assert(kCols % 4 == 0 && !kWeighted);
  static constexpr int cols = kCols;
  float x[kCols];
  Lane largest, unit, factor;

  SINQ_CUDA_DEVICE FitGroup(const Quantization& q, const RowGroup& at) {
    const BalancedGroup g = BalancedGroup::of(q, at.row, at.group);
    SINQ_CUDA_UNROLL
    for (int j = 0; j < kCols; j += 4) {
      float v[4];
      g.four(q, j, v);
      SINQ_CUDA_UNROLL
      for (int i = 0; i < 4; ++i) {
        x[j + i] = v[i];
        largest = max(largest, abs(Lane(v[i])));
      }
    }
    Lane::power_of_two(largest, unit, factor);
    SINQ_CUDA_UNROLL
    for (float& v : x) v = (v * factor).value();
  }
  SINQ_CUDA_DEVICE Lane operator[](int j) const { return x[j]; }
  SINQ_CUDA_DEVICE static Lane times(int, Lane v) { return v; }
};

template <bool kWeighted>
struct FitGroup<0, kWeighted> {
  const Quantization& q;
  BalancedGroup g;
  int cols;
  const float* importance = nullptr;
  Lane group_importance = 1;
  Lane largest, unit, factor;

  SINQ_CUDA_DEVICE FitGroup(const Quantization& of, const RowGroup& at)
      : q(of), g(BalancedGroup::of(of, at.row, at.group)), cols(g.cols) {
    if constexpr (kWeighted) {
      const int panel = at.row / q.w.tile_height;
      importance = q.importance + panel * q.padded_cols() + std::int64_t{at.group} * q.padded;
      group_importance = load_global<float>(q.group_importance + std::int64_t{panel} * q.w.groups + at.group);
    }
    for (int j = 0; j < cols; ++j) largest = max(largest, abs(Lane(g(q, j))));
    Lane::power_of_two(largest, unit, factor);
  }
  SINQ_CUDA_DEVICE Lane operator[](int j) const { return g(q, j) * factor; }
  SINQ_CUDA_DEVICE Lane times(int j, Lane v) const {
    if constexpr (kWeighted) return v * load_global<float>(importance + j);
    return v;
  }
};

/// Calls visit(at, group) for the thread's entry among groups [first_group, end_group) of all rows.
template <int kCols, bool kWeighted, class Visitor>
SINQ_CUDA_DEVICE void with_group(const Quantization& q, Visitor&& visit) {
  const std::int64_t at = q.at_row(0, q.first_group) + global_thread();
  if (at < q.at_row(0, q.end_group)) visit(at, FitGroup<kCols, kWeighted>(q, RowGroup::at(q, at)));
}

template <int kCols, int kLevels, bool kZero, bool kWeighted>
SINQ_CUDA_DEVICE void fit_groups_block(const Quantization& q) {
  const FitCoding<kLevels> coding(q);
  with_group<kCols, kWeighted>(q, [&](std::int64_t at, const FitGroup<kCols, kWeighted>& g) {
    FitMeasures<Lane> of;
    SINQ_CUDA_UNROLL
    for (int j = 0; j < g.cols; ++j) of.add(g[j], g.times(j, g[j]));
    const auto best = GroupFitter<Lane, kZero, FitCoding<kLevels>, FitGroup<kCols, kWeighted>>(coding, g).fit(of);
    const Lane scale = Lane::select(g.largest == 0, 0, best.line.s * g.unit), zero = -best.line.b / best.line.s;
    store_global(q.scale + at, scale.value());
    store_global(q.zero + at, zero.value());
    Lane level_squares = best.level_squares;
    if constexpr (kWeighted) level_squares = level_squares * g.group_importance;
    store_global(q.level_squares + at, level_squares.value());
  });
}

template <int kCols, int kLevels, bool kZero, bool kWeighted>
SINQ_CUDA_KERNEL fit_groups_kernel(const Quantization q) {
  fit_groups_block<kCols, kLevels, kZero, kWeighted>(q);
}

SINQ_CUDA_DEVICE void fit_coarse_block(const Quantization& q) {
  const int lane = static_cast<int>(thread_index()) % kLanes;
  const std::int64_t at = global_thread() / kLanes;
  const RowGroup of = RowGroup::at(q, at);  // of which the group is a block of groups
  if (of.group >= q.coarse_blocks()) return;
  const int first = of.group * q.w.coarse_groups;
  const int left = q.w.groups - first, end = first + (left < q.w.coarse_groups ? left : q.w.coarse_groups);
  Lane largest;
  for (int g = first + lane; g < end; g += kLanes)
    largest = max(largest, abs(Lane(load_global<float>(q.scale + q.at_row(of.row, g)))));
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    largest = max(largest, Lane(shuffle(largest.value(), lane ^ distance)));

  auto trial = FitCoarse<Lane>::trial(FitCoding<0>(q), lane, largest);
  for (int g = first; g < end; ++g) {
    const std::int64_t i = q.at_row(of.row, g);
    trial.add(q.fit.most, load_global<float>(q.scale + i), load_global<float>(q.level_squares + i));
  }
  // The first of the cheapest.
  const float infinity = as_float(0x7f80'0000u);
  const bool counts = lane < FitCoarse<Lane>::kTrials && trial.cost < infinity;
  float cost = counts ? trial.cost.value() : infinity,
        coarse = counts ? trial.coarse.value() : FitCoarse<Lane>::without_cost(largest).value();
  int index = lane;
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const float other_cost = shuffle(cost, lane ^ distance), other_coarse = shuffle(coarse, lane ^ distance);
    const int other_index = shuffle(index, lane ^ distance);
    if (other_cost < cost || (other_cost == cost && other_index < index)) {
      cost = other_cost;
      coarse = other_coarse;
      index = other_index;
    }
  }
  if (lane != 0) return;
  store_global(q.fitted_coarse + at, coarse);
  store_global(q.coarse + at, largest.value());
}

template <int = 0>
SINQ_CUDA_KERNEL fit_coarse_kernel(const Quantization q) {
  fit_coarse_block(q);
}

template <int kCols, int kLevels, bool kZero, bool kWeighted>
SINQ_CUDA_DEVICE void settle_groups_block(const Quantization& q) {
  const FitCoding<kLevels> coding(q);
  with_group<kCols, kWeighted>(q, [&](std::int64_t at, const FitGroup<kCols, kWeighted>& g) {
    const GroupFitter<Lane, kZero, FitCoding<kLevels>, FitGroup<kCols, kWeighted>> fitter(coding, g);
    const Lane fitted = load_global<float>(q.scale + at), zero = load_global<float>(q.zero + at);
    Lane coarse;
    if (q.w.header != 0) {
      const RowGroup i = RowGroup::at(q, at);
      coarse = load_global<float>(q.fitted_coarse + q.at_row(i.row, i.group / q.w.coarse_groups));
    }
    FitStored<Lane> chosen = fitter.store(fitted, zero, coarse);
    if (q.w.header == 0) {
      const bool lost = chosen.scale == 0 && 0 < g.largest && q.w.scale.number != Number::f32;
      if (lost || !is_finite(chosen.scale.value())) {
        raise_global(q.findings + kBeyondAux, ~static_cast<std::uint64_t>(at));
        chosen.scale = fitted;  // what a message names
      }
    }
    store_global(q.scale + at, chosen.scale.value());
    store_global(q.zero + at, chosen.zero.value());
  });
}

template <int kCols, int kLevels, bool kZero, bool kWeighted>
SINQ_CUDA_KERNEL settle_groups_kernel(const Quantization q) {
  settle_groups_block<kCols, kLevels, kZero, kWeighted>(q);
}

}  // namespace sinq::inline SINQ_ABI::detail::cuda
