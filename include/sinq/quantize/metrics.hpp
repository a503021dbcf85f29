// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "config.hpp"

namespace sinq::inline SINQ_ABI {

/// How far a quantized matrix is from its original.
struct ErrorMetrics {
  double relative_error = 0;  // Frobenius norm of the difference over that of the original (0 / 0 = 0, x / 0 = inf)
  double max_error = 0;       // largest |difference|
  /// sqrt(sum_j m_j sum_i d_ij^2 / sum_j m_j sum_i w_ij^2): the relative error of the output W x for inputs whose
  /// columns are uncorrelated with mean squares m. Without mean squares, the same as relative_error.
  double output_error = 0;
};

/// Compares `q` with the weights it was made from. `mean_square`: empty, or E[x_j^2] per input column, not negative.
/// InvalidArgument if the sizes differ, or a weight or a mean square is not finite.
[[nodiscard]] inline ErrorMetrics measure(const QuantizedMatrix& q, const WeightView& weights,
                                          std::span<const double> mean_square = {}) {
  using detail::core::require;
  validate(q);
  require(weights.rows == q.rows, "weights.rows", weights.rows, "must equal the rows of the matrix, ", q.rows);
  require(weights.cols == q.cols, "weights.cols", weights.cols, "must equal the cols of the matrix, ", q.cols);
  detail::core::require_view(weights, "weights");
  require(mean_square.empty() || static_cast<std::int64_t>(mean_square.size()) == q.cols, "mean_square.size()",
          mean_square.size(), "must be 0 or the cols of the matrix");
  for (double m : mean_square) require(m >= 0 && m < INFINITY, "mean_square", m, "must be finite and not negative");
  const detail::pack::RowReader reader(q);
  std::vector<float> factors(static_cast<std::size_t>(2 * reader.tiling().groups()));
  std::vector<float> row(static_cast<std::size_t>(q.cols));
  std::vector<float> restored(row.size());
  double error = 0, norm = 0, output_error = 0, output_norm = 0;
  ErrorMetrics result;
  for (std::int64_t i = 0; i < q.rows; ++i) {
    weights.load(i, 0, q.cols, row.data());
    detail::core::require_finite(row.data(), q.cols, i, 0);
    detail::pack::restore_row(reader, i, factors.data(), restored.data());
    for (std::int64_t j = 0; j < q.cols; ++j) {
      const double w = double{row[static_cast<std::size_t>(j)]};
      const double d = double{restored[static_cast<std::size_t>(j)]} - w;
      const double m = mean_square.empty() ? 1.0 : mean_square[static_cast<std::size_t>(j)];
      error += d * d;
      norm += w * w;
      output_error += m * (d * d);
      output_norm += m * (w * w);
      result.max_error = std::max(result.max_error, std::abs(d));
    }
  }
  result.relative_error = error == 0 ? 0 : std::sqrt(error / norm);
  result.output_error = output_error == 0 ? 0 : std::sqrt(output_error / output_norm);
  return result;
}

}  // namespace sinq::inline SINQ_ABI
