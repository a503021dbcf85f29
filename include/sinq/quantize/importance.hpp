// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "../tile.hpp"
#include "rules.hpp"

// How much the error of a column counts in a weighted fit. An error d of a balanced weight is an error d col_scale[j]
// of the weight, and d col_scale[j] x_j of the output: its mean square counts  E[x_j^2] col_scale[j]^2.

namespace sinq::inline SINQ_ABI::detail::quantize {

struct Importance {
  std::vector<float> column;  // panels x cols, with mean 1 over each group
  std::vector<float> group;   // panels x groups; empty, both: all columns count alike

  [[nodiscard]] bool empty() const noexcept { return column.empty(); }
  [[nodiscard]] const float* columns_of(std::int64_t panel, const Tiling& t) const noexcept {
    return empty() ? nullptr : column.data() + panel * t.cols;
  }
  [[nodiscard]] const float* groups_of(std::int64_t panel, const Tiling& t) const noexcept {
    return empty() ? nullptr : group.data() + panel * t.groups();
  }
};

/// `mean_square`: of each column; `col_scale`: panels x cols, or empty.
[[nodiscard]] inline Importance importance_of(std::span<const double> mean_square, const std::vector<float>& col_scale,
                                              const Tiling& t) {
  Importance r;
  r.column.resize(static_cast<std::size_t>(t.panels() * t.cols));
  r.group.resize(static_cast<std::size_t>(t.panels() * t.groups()));
  std::vector<double> counts(mean_square.size());
  for (std::int64_t p = 0; p < t.panels(); ++p) {
    for (std::size_t j = 0; j < counts.size(); ++j) {
      const double c = col_scale.empty() ? 1.0 : double{col_scale[static_cast<std::size_t>(p * t.cols) + j]};
      counts[j] = mean_square[j] * (c * c);
    }
    const double mean = std::accumulate(counts.begin(), counts.end(), 0.0) / static_cast<double>(t.cols);
    for (std::int64_t g = 0; g < t.groups(); ++g) {
      const auto first = static_cast<std::size_t>(t.group_begin(g));
      const auto cols = static_cast<std::size_t>(t.group_cols(g));
      double sum = 0;
      for (std::size_t j = first; j < first + cols; ++j) {
        counts[j] = mean > 0 ? std::max(counts[j] / mean, kLeastImportance) : 1.0;
        sum += counts[j];
      }
      const double of_group = sum / static_cast<double>(cols);
      r.group[static_cast<std::size_t>(p * t.groups() + g)] = static_cast<float>(of_group);
      for (std::size_t j = first; j < first + cols; ++j)
        r.column[static_cast<std::size_t>(p * t.cols) + j] = static_cast<float>(counts[j] / of_group);
    }
  }
  return r;
}

}  // namespace sinq::inline SINQ_ABI::detail::quantize
