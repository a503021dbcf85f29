// SPDX-License-Identifier: Apache-2.0
#include <sinq/sinq.hpp>
#if __has_include(<sinq/cuda.cuh>)
#include <sinq/cuda.cuh>
#endif

#include <cmath>
#include <cstdio>

static_assert(__cplusplus >= 202002L, "sinq::cuda asks nvcc for C++20");

float product_in_another_file(const sinq::QuantizedMatrix& q);

__global__ void nothing() {}

// Compiled and linked with nvcc; needs no GPU to run.
int main() {
  Eigen::Matrix<float, 8, 64, Eigen::RowMajor> weights;
  weights.setConstant(2);
  std::printf("sinq %d.%d.%d\n", SINQ_VERSION_MAJOR, SINQ_VERSION_MINOR, SINQ_VERSION_PATCH);
  const float error = std::abs(product_in_another_file(sinq::quantize(weights)) - 128);
  return error < 128 * 3 / 2048.0F ? 0 : 1;  // see ../main.cpp
}
