// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <cstdint>

namespace engine {

/// Activations: tokens x features.
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::RowVectorXf;

/// y = x / rms(x) * weight, row by row.
inline Matrix rms_norm(const Eigen::Ref<const Matrix, 0, Eigen::OuterStride<>>& x, const Vector& weight, float eps) {
  Matrix y(x.rows(), x.cols());
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    const float mean = x.row(t).squaredNorm() / static_cast<float>(x.cols());
    y.row(t) = (x.row(t) / std::sqrt(mean + eps)).cwiseProduct(weight);
  }
  return y;
}

}  // namespace engine
