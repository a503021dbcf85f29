// SPDX-License-Identifier: Apache-2.0
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
  return product_in_another_file(q) == 128 ? 0 : 1;  // 64 times 2 times 1; a constant is quantized without error
}
