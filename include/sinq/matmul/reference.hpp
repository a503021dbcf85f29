// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "problem.hpp"

namespace sinq::inline SINQ_ABI {

/// y = x W^T in double precision from the decoded factors, in the plainest way: what every kernel is compared with.
/// `magnitude`, if given, receives sum_j |W[i,j] x[t,j]| per output (tokens x rows), the yardstick of error bounds.
template <Element X>
[[nodiscard]] Eigen::MatrixXd reference_matmul(const QuantizedMatrix& w, const MatrixView<const X>& x,
                                               Eigen::MatrixXd* magnitude = nullptr) {
  validate(w);
  detail::core::require(x.cols == w.cols, "x.cols", x.cols, "must be ", w.cols, ", the cols of the matrix");
  detail::core::require(x.rows >= 0, "x.rows", x.rows, "must not be negative");
  detail::core::require_view(x, "x");
  const detail::pack::RowReader reader(w);
  const Tiling& t = reader.tiling();
  std::vector<float> scales(static_cast<std::size_t>(t.groups()));
  std::vector<float> zeros(scales.size());
  std::vector<float> col_scale(static_cast<std::size_t>(t.cols));
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(t.cols));
  Eigen::VectorXd row(t.cols);
  Eigen::MatrixXd xd(x.rows, x.cols);
  for (std::int64_t n = 0; n < x.rows; ++n)
    for (std::int64_t j = 0; j < x.cols; ++j) xd(n, j) = static_cast<double>(x.row(n)[j]);
  Eigen::MatrixXd y(x.rows, t.rows);
  if (magnitude) magnitude->resize(x.rows, t.rows);
  for (std::int64_t i = 0; i < t.rows; ++i) {
    reader.scales(i, scales.data());
    reader.zeros(i, zeros.data());
    reader.col_scales(t.panel_of(i), 0, t.cols, col_scale.data());
    for (std::int64_t g = 0; g < t.groups(); ++g) reader.codes(i, g, codes.data() + t.group_begin(g));
    for (std::int64_t j = 0; j < t.cols; ++j) {
      const auto g = static_cast<std::size_t>(j / t.group_size);
      const auto k = static_cast<std::size_t>(j);
      row[j] = (double{reader.levels()[codes[k]]} - double{zeros[g]}) * double{scales[g]} * double{col_scale[k]};
    }
    y.col(i) = xd * row;
    if (magnitude) magnitude->col(i) = xd.cwiseAbs() * row.cwiseAbs();
  }
  return y;
}

}  // namespace sinq::inline SINQ_ABI
