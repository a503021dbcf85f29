// SPDX-License-Identifier: Apache-2.0
#pragma once

// Mixed precision: which tensor gets how many bits, so that the model as a whole stays within a budget and loses least.
//
//     per tensor: choices_for(weights, importance)   what each configuration would take, and lose
//     for all:    choose_within(choices, budget)     one configuration each
//
// The loss of a choice is importance * (relative error of the tensor)^2. That is more than a convention: over widths
// from 2 to 4 bits the KL divergence that rounding one kind of matrix causes is proportional to it within a fifth, and
// the factor hardly depends on how many weights the matrix has (bench/results/quality.md). A relative error of 10 % in
// the values of a small matrix does the same harm as in those of a large one, but costs fewer bits to mend.

#include <numeric>
#include <span>

#include "metrics.hpp"
#include "quantize_matrix.hpp"
#ifndef SINQ_EXTERN_KERNELS
#include "passes.hpp"
#endif

namespace sinq::inline SINQ_ABI {

/// One way to store one tensor.
struct Choice {
  std::int64_t bits = 0;  // of the whole tensor
  double loss = 0;        // adds up over tensors
};

namespace detail::quantize {

/// Loss saved per bit when going from one choice to a larger one.
[[nodiscard]] inline double slope(const Choice& from, const Choice& to) noexcept {
  return (from.loss - to.loss) / static_cast<double>(to.bits - from.bits);
}

/// The choices on the lower convex hull of (bits, loss), from the cheapest to the one of least loss: the only ones that
/// some price per bit makes best.
///
///     loss  *
///            \    x          x: above the line, never best
///             *__
///                ---*
///                       bits
[[nodiscard]] inline std::vector<std::size_t> lower_hull(const std::vector<Choice>& choices) {
  std::vector<std::size_t> order(choices.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const Choice& x = choices[a];
    const Choice& y = choices[b];
    return x.bits != y.bits ? x.bits < y.bits : x.loss < y.loss;
  });
  std::vector<std::size_t> hull;
  for (std::size_t k : order) {
    const Choice& c = choices[k];
    if (!hull.empty() && c.loss >= choices[hull.back()].loss) continue;
    while (hull.size() >= 2 &&
           slope(choices[hull[hull.size() - 2]], choices[hull.back()]) <= slope(choices[hull.back()], c))
      hull.pop_back();
    hull.push_back(k);
  }
  return hull;
}

inline void validate_choices(std::span<const std::vector<Choice>> tensors) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].empty()) core::raise<InvalidArgument>(core::text("sinq: tensors[", i, "] has no choices"));
    for (std::size_t k = 0; k < tensors[i].size(); ++k) {
      const auto require = [&](bool ok, const char* member, const auto& value, const char* limit) {
        if (!ok) core::require(false, core::text("tensors[", i, "][", k, "].", member).c_str(), value, limit);
      };
      const Choice& c = tensors[i][k];
      require(c.bits >= 0 && c.bits <= std::int64_t{1} << 52, "bits", c.bits, "allowed are 0 to 2^52");
      require(c.loss >= 0 && c.loss < INFINITY, "loss", c.loss, "must be finite and not negative");
    }
  }
}

}  // namespace detail::quantize

/// For every tensor the index of one of its choices, such that all bits together are at most `budget` and the losses
/// add up to little: every tensor starts with its cheapest choice and steps are taken along the hulls, the one that
/// saves most per bit first, until one does not fit; what is left of the budget goes to whatever single changes still
/// fit, best first. The sum of losses exceeds the least possible by less than that one step would have saved (up to
/// there, the steps solve the problem with fractions of a step allowed, which can only be better): with tens of
/// tensors, a percent. Ties go to the earlier tensor. The time is that of a sort, and of tensors * choices per change
/// at the end.
///
/// InvalidArgument if a tensor has no choices, bits or losses are out of range, or even the cheapest choices exceed the
/// budget (naming what they take).
[[nodiscard]] inline std::vector<std::size_t> choose_within(std::span<const std::vector<Choice>> tensors,
                                                            std::int64_t budget) {
  using namespace detail::quantize;
  validate_choices(tensors);
  struct Step {
    double slope;
    std::size_t tensor, to;
  };
  std::vector<std::size_t> chosen;
  std::vector<Step> steps;
  std::int64_t used = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<std::size_t> hull = lower_hull(tensors[i]);
    chosen.push_back(hull.front());
    used += tensors[i][hull.front()].bits;
    for (std::size_t k = 1; k < hull.size(); ++k)
      steps.push_back({slope(tensors[i][hull[k - 1]], tensors[i][hull[k]]), i, hull[k]});
  }
  if (used > budget)
    detail::core::raise<InvalidArgument>(
        detail::core::text("sinq: budget = ", budget, ": the least that the choices allow is ", used, " bits"));
  // Slopes fall along a hull, so that a stable sort keeps its steps in order.
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.slope > b.slope; });
  for (const Step& step : steps) {
    const std::int64_t more = tensors[step.tensor][step.to].bits - tensors[step.tensor][chosen[step.tensor]].bits;
    if (used + more > budget) break;
    used += more;
    chosen[step.tensor] = step.to;
  }
  for (;;) {
    Step best{0, 0, 0};
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const Choice& now = tensors[i][chosen[i]];
      for (std::size_t k = 0; k < tensors[i].size(); ++k) {
        const Choice& other = tensors[i][k];
        if (other.loss >= now.loss || other.bits <= now.bits || used + other.bits - now.bits > budget) continue;
        if (const double s = slope(now, other); s > best.slope) best = {s, i, k};
      }
    }
    if (best.slope == 0) return chosen;
    used += tensors[best.tensor][best.to].bits - tensors[best.tensor][chosen[best.tensor]].bits;
    chosen[best.tensor] = best.to;
  }
}

/// What a budget is spent on, from 2.31 to 8.25 bits per weight (beside them, a row and a column cost 16 bits each):
/// the building blocks of the presets, and from 4 bits on groups of 32 and 64.
[[nodiscard]] inline std::vector<QuantizeConfig> budget_configs() {
  using detail::quantize::fitted;
  return {fitted(2, Aux::u5, Aux::none),   fitted(2, Aux::u4, Aux::u4),     fitted(3, Aux::u4, Aux::none),
          fitted(3, Aux::u5, Aux::none),   fitted(3, Aux::u5, Aux::u5),     fitted(3, Aux::u6, Aux::u6),
          fitted(4, Aux::u5, Aux::none),   fitted(4, Aux::u6, Aux::u6, 32), fitted(4, Aux::u6, Aux::u6),
          fitted(5, Aux::u6, Aux::u6, 64), fitted(5, Aux::u6, Aux::u6, 32), fitted(5, Aux::u6, Aux::u6),
          fitted(6, Aux::u6, Aux::u6, 64), fitted(6, Aux::u6, Aux::u6, 32), fitted(6, Aux::u8, Aux::u8),
          fitted(8, Aux::u8, Aux::u8, 64)};
}

/// Loss per square of relative error, up to a factor that all have in common: measured on four models
/// (bench/results/quality.md). `outer`: in the first layer, whose results are large beside what they are added to, or
/// in the last, behind which nothing averages errors out; where attention looks matters no more there than elsewhere.
[[nodiscard]] constexpr double importance_of(Role role, bool outer = false) noexcept {
  if (role == Role::query) return 0.3;
  return (role == Role::value ? 0.6 : 1.0) * (outer ? 1.5 : 1.0);
}

struct ChoiceOptions {
  std::int64_t sample_rows = 256;  // rows looked at (up to twice as many), evenly spaced; from 1
  /// Of the inputs, see `measure`. Empty: those of `activations`; where there are none, the error of the weights
  /// counts.
  std::span<const double> mean_square{};
  Executor* executor = nullptr;  // the caller's threads; null: the calling thread alone
  /// As in QuantizeOptions: what configurations with a calibration need.
  const Activations* activations = nullptr;
};

/// What every configuration would make of a matrix: the exact size, and importance * error^2 where the error is that of
/// a sample of its rows, quantized for trial. InvalidArgument as `quantize` and `measure`.
[[nodiscard]] inline std::vector<Choice> choices_for(const WeightView& weights, std::span<const QuantizeConfig> configs,
                                                     double importance = 1, const ChoiceOptions& options = {}) {
  using namespace detail;
  core::require(importance >= 0 && importance < INFINITY, "importance", importance, "must be finite and not negative");
  core::require(options.sample_rows >= 1, "sample_rows", options.sample_rows, "must be at least 1");
  (void)tiling(weights.rows, weights.cols, kWholeRow, Tile::stripe);
  core::require_view(weights, "weights");
  std::vector<double> seen;
  if (options.activations) {
    quantize::validate(*options.activations, weights.cols);
    if (options.mean_square.empty()) seen = options.activations->mean_square();
  }
  const std::span<const double> mean_square = seen.empty() ? options.mean_square : seen;
  const std::int64_t step = std::max<std::int64_t>(weights.rows / options.sample_rows, 1);
  const WeightView sample(weights.data, weights.dtype, weights.rows / step, weights.cols, weights.stride * step);
  std::vector<Choice> result;
  for (const QuantizeConfig& config : configs) {
    const QuantizedMatrix q =
        sinq::quantize(sample, config, {.executor = options.executor, .activations = options.activations});
    const double error = measure(q, sample, mean_square).output_error;
    result.push_back({8 * stored_bytes(q.format, weights.rows, weights.cols), importance * error * error});
  }
  return result;
}

}  // namespace sinq::inline SINQ_ABI
