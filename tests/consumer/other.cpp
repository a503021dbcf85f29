// SPDX-License-Identifier: Apache-2.0
#include <sinq/sinq.hpp>
#include <sinq/store.hpp>

float product_in_another_file(const sinq::QuantizedMatrix& q);

float product_in_another_file(const sinq::QuantizedMatrix& q) {
  Eigen::Matrix<float, 1, 64, Eigen::RowMajor> x;
  Eigen::Matrix<float, 1, 8, Eigen::RowMajor> y;
  x.setOnes();
  sinq::matmul(sinq::pack(q), x, y);
  return y(0);
}
