// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "imbalance.hpp"

namespace sinq::inline SINQ_ABI {

/// Settings of the iteration; the defaults are those of the Python reference.
struct SinkhornOptions {
  int iterations = 16;                     // how many iterates are looked at, the identity included: 0 to 1000
  double min_step = 0.7;                   // one update multiplies a factor by a step in [min_step, max_step]
  double max_step = 2.0;                   //
  double min_deviation = 1e-3;             // deviations are clamped to this range before a step is taken
  double max_deviation = 1e3;              //
  double min_factor = 0.7408182206817179;  // exp(-0.3): factors stay within this range
  double max_factor = 22026.465794806718;  // exp(10)
};

/// What balancing found: W[i,j] / (row[i] col[j]) has rows and columns of nearly equal standard deviation.
struct Balance {
  std::vector<float> row;
  std::vector<float> col;
  double imbalance_before = 1;
  double imbalance_after = 1;
};

namespace detail::balance {

inline void validate(const SinkhornOptions& o) {
  using core::require;
  require(o.iterations >= 0 && o.iterations <= 1000, "sinkhorn.iterations", o.iterations, "allowed are 0 to 1000");
  require(o.min_step > 0 && o.min_step <= 1, "sinkhorn.min_step", o.min_step, "must be in (0, 1]");
  require(o.max_step >= 1 && o.max_step <= 1e6, "sinkhorn.max_step", o.max_step, "must be in [1, 1e6]");
  require(o.max_deviation > 0 && o.max_deviation <= 1e30, "sinkhorn.max_deviation", o.max_deviation,
          "must be in (0, 1e30]");
  require(o.min_deviation > 0 && o.min_deviation <= o.max_deviation, "sinkhorn.min_deviation", o.min_deviation,
          "must be in (0, max_deviation]");
  require(o.min_factor >= 1e-9 && o.min_factor <= 1, "sinkhorn.min_factor", o.min_factor, "must be in [1e-9, 1]");
  require(o.max_factor >= 1 && o.max_factor <= 1e9, "sinkhorn.max_factor", o.max_factor, "must be in [1, 1e9]");
}

inline constexpr double kRounding = 1e-5;

/// One axis: factors, and what a deviation makes of them.
struct Axis {
  std::vector<float> factor;  // room for a multiple of core::kLanes
  std::vector<float> inverse;

  explicit Axis(std::int64_t n) : factor(static_cast<std::size_t>(core::padded(n)), 1.0f), inverse(factor) {}

  /// factor *= clamp(deviation / target, min_step, max_step); no change along an axis without deviations.
  void update(const std::vector<float>& deviation, double target, const SinkhornOptions& o) noexcept {
    core::on_isa<Axis>(deviation.data(), deviation.size(), static_cast<float>(1 / target), o, factor.data(),
                       inverse.data());
  }
  template <int kWidth>
  [[gnu::always_inline]] static void run(const float* deviation, std::size_t count, float target_inverse,
                                         const SinkhornOptions& o, float* factor, float* inverse) noexcept {
    using Float = core::Lanes<kWidth>;
    const auto number = [](double v) { return static_cast<float>(v); };
    for (std::size_t k = 0; k < count; k += kWidth) {
      const Float d = clamp(Float::load(deviation + k), number(o.min_deviation), number(o.max_deviation));
      const Float step = clamp(d * target_inverse, number(o.min_step), number(o.max_step));
      const Float f = clamp(Float::load(factor + k) * step, number(o.min_factor), number(o.max_factor));
      f.store(factor + k);
      (1.0f / f).store(inverse + k);
    }
  }
};

/// Balances one tile: `tile` holds rows x padded(cols) floats, padding zero, the largest magnitude being `largest`.
///
/// Paper, Algorithm 1, and `sinkhorn_log` of the Python reference. That works on logarithms of the factors:
///     log f += log clamp(std / target, 0.7, 2.0), clipped to [-0.3, 10];
/// here the same update multiplies the factors themselves: no logarithm, hence no math library whose last bit differs
/// between machines. As in the reference: the target is the smallest clamped deviation of the tile as it came, plus
/// 1e-6; the best iterate seen is kept, ties go to the later one; the first iterate that is worse than the best ends
/// the iteration; the result of the update after the last look is never used, so it is not computed.
///
/// One thing differs on purpose: a rise by less than kRounding does not end the iteration. Where all steps are clamped
/// an update multiplies the whole tile by a constant, the imbalance stays what it was, and in the reference the last
/// bit of a float decides whether the iteration goes on (seen: stuck at 1.12 where 1.007 was five updates away).
///
/// `look(row, col, imbalance)` sees every iterate.
template <class Look>
[[nodiscard]] Balance sinkhorn_tile(const float* tile, float largest, std::int64_t rows, std::int64_t cols,
                                    const SinkhornOptions& o, Look&& look) {
  const std::int64_t stride = core::padded(cols);
  Balance best{std::vector<float>(static_cast<std::size_t>(rows), 1.0f),
               std::vector<float>(static_cast<std::size_t>(cols), 1.0f)};
  Axis row(rows);
  Axis col(cols);
  DeviationMeter meter;
  Deviations now;
  const float unit = unit_of(largest);
  std::vector<float> in_units;
  if (unit != 1) {
    in_units.assign(tile, tile + rows * stride);
    for (float& v : in_units) v /= unit;
    tile = in_units.data();
  }
  double target = 0;
  for (int k = 0;; ++k) {
    meter.measure(
        rows, cols, row.inverse.data(), col.inverse.data(), unit,
        [&](std::int64_t first, std::int64_t) { return tile + first * stride; }, now);
    const double imbalance = now.imbalance();
    if (k == 0) {
      best.imbalance_before = best.imbalance_after = imbalance;
      if (now.empty()) break;
      target = std::clamp(double{now.extremes.least}, o.min_deviation, o.max_deviation) + 1e-6;
    }
    look(std::span<const float>(row.factor).first(best.row.size()),
         std::span<const float>(col.factor).first(best.col.size()), imbalance);
    if (imbalance > best.imbalance_after * (1 + kRounding)) break;
    if (imbalance <= best.imbalance_after) {
      best.imbalance_after = imbalance;
      std::copy_n(row.factor.begin(), best.row.size(), best.row.begin());
      std::copy_n(col.factor.begin(), best.col.size(), best.col.begin());
    }
    if (k + 1 >= o.iterations) break;
    row.update(now.row, target, o);
    col.update(now.col, target, o);
  }
  return best;
}

[[nodiscard]] inline Balance sinkhorn_tile(const float* tile, float largest, std::int64_t rows, std::int64_t cols,
                                           const SinkhornOptions& o) {
  return sinkhorn_tile(tile, largest, rows, cols, o, [](const auto&, const auto&, double) {});
}

}  // namespace detail::balance

/// Balances a matrix as a single tile (see detail::balance::sinkhorn_tile; `quantize` does it for every tile of its
/// tiling). InvalidArgument on an empty matrix, a null pointer, a stride below cols, a weight that is not finite, or
/// options out of range.
[[nodiscard]] inline Balance sinkhorn(const WeightView& w, const SinkhornOptions& options = {}) {
  using namespace detail::balance;
  validate(options);
  (void)tiling(w.rows, w.cols, kWholeRow, Tile::stripe);
  detail::core::require_view(w, "weights");
  const std::int64_t stride = detail::core::padded(w.cols);
  std::vector<float> tile(static_cast<std::size_t>(w.rows * stride));
  w.load(0, w.rows, 0, w.cols, tile.data(), stride);
  const float largest = detail::core::require_finite(tile.data(), w.rows, w.cols, stride, 0, 0);
  return sinkhorn_tile(tile.data(), largest, w.rows, w.cols, options);
}

}  // namespace sinq::inline SINQ_ABI
