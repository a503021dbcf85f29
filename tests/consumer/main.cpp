// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <sinq/sinq.hpp>
#include <sinq/store.hpp>

float product_in_another_file(const sinq::QuantizedMatrix& q);

// Two files of an engine that both use the library, without a flag.
int main() {
  Eigen::Matrix<float, 8, 64, Eigen::RowMajor> weights;
  weights.setConstant(2);
  const sinq::QuantizedMatrix q = sinq::quantize(weights);
  std::printf("sinq %d.%d.%d\n", SINQ_VERSION_MAJOR, SINQ_VERSION_MINOR, SINQ_VERSION_PATCH);
  // 64 times 2 times 1. A constant costs what storing its three auxiliaries as halves costs: 2^-11 of it each.
  return std::abs(product_in_another_file(q) - 128) < 128 * 3 / 2048.0F ? 0 : 1;
}
