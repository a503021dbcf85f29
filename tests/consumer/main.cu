// SPDX-License-Identifier: Apache-2.0
#include <cuda_fp16.h>

#include <cmath>
#include <cstdio>
#include <sinq/cuda.cuh>
#include <sinq/sinq.hpp>
#include <vector>

static_assert(__cplusplus >= 202002L, "sinq::cuda asks nvcc for C++20");

float product_in_another_file(const sinq::QuantizedMatrix& q);

/// An input of ones times the matrix, on the current device: the first output, as in other.cpp.
float product_on_the_device(const sinq::QuantizedMatrix& q) {
  const std::vector<__half> ones(static_cast<std::size_t>(q.cols), __float2half(1));
  __half* x_data = nullptr;
  float* y_data = nullptr;
  cudaMalloc(&x_data, ones.size() * sizeof(__half));
  cudaMalloc(&y_data, static_cast<std::size_t>(q.rows) * sizeof(float));
  cudaMemcpy(x_data, ones.data(), ones.size() * sizeof(__half), cudaMemcpyHostToDevice);
  const sinq::MatrixView<__half> x(x_data, 1, q.cols);
  const sinq::MatrixView<float> y(y_data, 1, q.rows);
  cudaStream_t stream = nullptr;

  sinq::cuda::DeviceMatrix w(q, stream);  // a copy in the device's memory, in the order of its kernels
  const sinq::cuda::Plan plan = sinq::cuda::plan<__half>(w, x.rows, sinq::cuda::device_facts());  // x in half
  std::byte* workspace = nullptr;
  cudaMalloc(&workspace, plan.workspace_bytes);
  sinq::cuda::matmul(plan, w, x, y, std::span(workspace, plan.workspace_bytes), stream);  // half, bfloat16 or float

  float first = 0;
  cudaMemcpy(&first, y_data, sizeof first, cudaMemcpyDeviceToHost);
  cudaFree(x_data);
  cudaFree(y_data);
  cudaFree(workspace);
  return first;
}

// Compiled and linked with nvcc; what needs a GPU runs where there is one.
int main() {
  Eigen::Matrix<float, 8, 64, Eigen::RowMajor> weights;
  weights.setConstant(2);
  const sinq::QuantizedMatrix q = sinq::quantize(weights);
  std::printf("sinq %d.%d.%d\n", SINQ_VERSION_MAJOR, SINQ_VERSION_MINOR, SINQ_VERSION_PATCH);
  const auto good = [](float product) { return std::abs(product - 128) < 128 * 3 / 2048.0F; };  // see main.cpp
  int devices = 0;
  const bool has_device = cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
  return good(product_in_another_file(q)) && (!has_device || good(product_on_the_device(q))) ? 0 : 1;
}
