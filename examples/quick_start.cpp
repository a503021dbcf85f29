// SPDX-License-Identifier: Apache-2.0
// The lines of use in the README, with something to use them on: quantize a layer, save it, multiply by it.
#include <cstdio>
#include <filesystem>
#include <sinq/sinq.hpp>
#include <sinq/store.hpp>

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

int main() {
  const Matrix weights = Matrix::Random(256, 512);  // output features x input features
  const Matrix x = Matrix::Random(3, 512);          // tokens x input features
  Matrix y(3, 256);                                 // tokens x output features
  const std::filesystem::path file = std::filesystem::temp_directory_path() / "sinq_quick_start.safetensors";

  sinq::QuantizedMatrix q = sinq::quantize(weights, sinq::preset(4.5));  // at most 4.5 bits per weight
  sinq::store::save(file, {{"q_proj", q}});

  sinq::PackedMatrix p = sinq::pack(q);  // once, at load: the order the best kernel wants
  sinq::matmul(p, x, y);                 // x: tokens x cols, y: tokens x rows

  const float error = (y - x * weights.transpose()).norm() / (x * weights.transpose()).norm();
  std::printf("%.2f bits per weight, relative error of the product %.3f\n", q.bits_per_weight(), error);
  std::filesystem::remove(file);
  return error < 0.2F ? 0 : 1;
}
