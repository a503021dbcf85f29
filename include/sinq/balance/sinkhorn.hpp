// SPDX-License-Identifier: Apache-2.0
#pragma once

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
  require(o.min_deviation > 0 && o.min_deviation <= o.max_deviation, "sinkhorn.min_deviation", o.min_deviation,
          "must be in (0, max_deviation]");
  require(o.max_deviation <= 1e30, "sinkhorn.max_deviation", o.max_deviation, "must be at most 1e30");
  require(o.min_factor >= 1e-9 && o.min_factor <= 1, "sinkhorn.min_factor", o.min_factor, "must be in [1e-9, 1]");
  require(o.max_factor >= 1 && o.max_factor <= 1e9, "sinkhorn.max_factor", o.max_factor, "must be in [1, 1e9]");
}

inline constexpr double kRounding = 1e-5;

/// Balances one tile: `tile` holds rows x padded(cols) floats, padding zero.
///
/// Paper, Algorithm 1, and `sinkhorn_log` of the Python reference. That works on logarithms of the factors:
///     log f += log clamp(std / target, 0.7, 2.0), clipped to [-0.3, 10];
/// here the same update multiplies the factors themselves, in double: no logarithm, hence no math library whose last
/// bit differs between machines. As in the reference: the target is the smallest clamped deviation of the tile as it
/// came, plus 1e-6; the best iterate seen is kept, ties go to the later one; the first iterate that is worse than the
/// best ends the iteration; the result of the update after the last look is never used, so it is not computed.
///
/// One thing differs on purpose: a rise by less than kRounding does not end the iteration. Where all steps are clamped
/// an update multiplies the whole tile by a constant, the imbalance stays what it was, and in the reference the last
/// bit of a float decides whether the iteration goes on (seen: stuck at 1.12 where 1.007 was five updates away).
///
/// `look(row, col, imbalance)` sees every iterate.
template <class Look>
[[nodiscard]] Balance sinkhorn_tile(const float* tile, std::int64_t rows, std::int64_t cols, const SinkhornOptions& o,
                                    Look&& look) {
  const auto n_rows = static_cast<std::size_t>(rows);
  const auto n_cols = static_cast<std::size_t>(cols);
  const std::int64_t stride = padded(cols);
  Balance best{std::vector<float>(n_rows, 1.0f), std::vector<float>(n_cols, 1.0f)};
  std::vector<double> row(n_rows, 1.0);
  std::vector<double> col(n_cols, 1.0);
  std::vector<float> row_inverse(n_rows, 1.0f);
  std::vector<float> col_inverse(static_cast<std::size_t>(stride), 1.0f);
  DeviationMeter meter;
  Deviations now;
  const float unit = unit_of(core::largest_magnitude(tile, rows * stride));
  std::vector<float> in_units;
  if (unit != 1) {
    in_units.assign(tile, tile + rows * stride);
    for (float& v : in_units) v /= unit;
    tile = in_units.data();
  }
  const auto clamped = [&](double d) { return std::clamp(d, o.min_deviation, o.max_deviation); };
  double target = 0;
  for (int k = 0; k < std::max(o.iterations, 1); ++k) {
    meter.measure(
        rows, cols, row_inverse.data(), col_inverse.data(), unit,
        [&](std::int64_t first, std::int64_t) { return tile + first * stride; }, now);
    const double imbalance = now.imbalance();
    if (k == 0) {
      best.imbalance_before = best.imbalance_after = imbalance;
      if (now.empty()) break;
      target = now.least(clamped) + 1e-6;
    }
    look(row, col, imbalance);
    if (imbalance > best.imbalance_after * (1 + kRounding)) break;
    if (imbalance <= best.imbalance_after) {
      best.imbalance_after = imbalance;
      std::transform(row.begin(), row.end(), best.row.begin(), [](double f) { return static_cast<float>(f); });
      std::transform(col.begin(), col.end(), best.col.begin(), [](double f) { return static_cast<float>(f); });
    }
    const auto update = [&](std::vector<double>& factors, const std::vector<double>& deviations,
                            std::vector<float>& inverse) {
      for (std::size_t k2 = 0; k2 < deviations.size(); ++k2) {
        const double step = std::clamp(clamped(deviations[k2]) / target, o.min_step, o.max_step);
        factors[k2] = std::clamp(factors[k2] * step, o.min_factor, o.max_factor);
        inverse[k2] = static_cast<float>(1.0 / factors[k2]);
      }
    };
    update(row, now.row, row_inverse);
    update(col, now.col, col_inverse);
  }
  return best;
}

[[nodiscard]] inline Balance sinkhorn_tile(const float* tile, std::int64_t rows, std::int64_t cols,
                                           const SinkhornOptions& o) {
  return sinkhorn_tile(tile, rows, cols, o, [](const auto&, const auto&, double) {});
}

}  // namespace detail::balance

/// Balances a matrix as a single tile (see detail::balance::sinkhorn_tile; `quantize` does it for every tile of its
/// tiling). InvalidArgument on an empty matrix, a weight that is not finite, or options out of range.
[[nodiscard]] inline Balance sinkhorn(const WeightView& w, const SinkhornOptions& options = {}) {
  using namespace detail::balance;
  validate(options);
  (void)tiling(w.rows, w.cols, kWholeRow, Tile::stripe);
  const std::int64_t stride = padded(w.cols);
  std::vector<float> tile(static_cast<std::size_t>(w.rows * stride));
  w.load(0, w.rows, 0, w.cols, tile.data(), stride);
  detail::core::require_finite(tile.data(), w.rows, w.cols, stride, 0, 0);
  return sinkhorn_tile(tile.data(), w.rows, w.cols, options);
}

}  // namespace sinq::inline SINQ_ABI
