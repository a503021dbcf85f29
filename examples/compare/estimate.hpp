// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>
#include <span>

namespace compare {

/// A number with its 95 % confidence interval.
struct Estimate {
  double value = 0;
  double low = std::numeric_limits<double>::quiet_NaN();  // not a number: one window says nothing about others
  double high = std::numeric_limits<double>::quiet_NaN();
};

/// sum(x) / sum(n) over windows that count as drawn independently of each other; tokens of one window do not. (Ratio
/// estimator, W. G. Cochran, Sampling Techniques, section 6.4, normal approximation.) Where x is a difference between
/// two models on the same window, the interval is the paired one.
[[nodiscard]] inline Estimate ratio(std::span<const double> x, std::span<const double> n) {
  double sum = 0;
  double count = 0;
  for (std::size_t w = 0; w < x.size(); ++w) {
    sum += x[w];
    count += n[w];
  }
  Estimate e{sum / count};
  if (x.size() < 2) return e;
  double square = 0;
  for (std::size_t w = 0; w < x.size(); ++w) square += (x[w] - e.value * n[w]) * (x[w] - e.value * n[w]);
  const auto windows = static_cast<double>(x.size());
  const double half = 1.96 * std::sqrt(square * windows / (windows - 1)) / count;
  e.low = e.value - half;
  e.high = e.value + half;
  return e;
}

}  // namespace compare
