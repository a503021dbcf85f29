// SPDX-License-Identifier: Apache-2.0
// The lines of use in the README, with something to use them on: quantize a layer, save it, multiply by it; then as an
// engine does, with threads and memory of its own.
#include <cstdio>
#include <filesystem>
#include <sinq/core/thread_pool.hpp>
#include <sinq/sinq.hpp>
#include <sinq/store.hpp>
#include <vector>

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// NOLINTNEXTLINE(bugprone-exception-escape): an example catches nothing
int main() {
  const Matrix weights = Matrix::Random(256, 512);  // output features x input features
  const Matrix x = Matrix::Random(3, 512);          // tokens x input features
  Matrix y(3, 256);                                 // tokens x output features
  const std::filesystem::path file = std::filesystem::temp_directory_path() / "sinq_quick_start.safetensors";

  sinq::QuantizedMatrix q = sinq::quantize(weights, sinq::preset(4.5));  // about 4.5 bits per weight
  sinq::store::save(file, {{"q_proj", q}});

  sinq::PackedMatrix p = sinq::pack(q);  // once, at load: the order the best kernel wants
  sinq::matmul(p, x, y);                 // x: tokens x cols, y: tokens x rows

  const float error = (y - x * weights.transpose()).norm() / (x * weights.transpose()).norm();
  std::printf("%.2f bits per weight, relative error of the product %.3f\n", q.bits_per_weight(), error);
  std::filesystem::remove(file);

  const sinq::PackedMatrix &q_proj = p, &k_proj = p, &v_proj = p;
  Matrix q_out(3, 256), k_out(3, 256), v_out(3, 256);

  Eigen::ThreadPool pool(3);  // the caller's; or any sinq::Executor
  sinq::ThreadPoolExecutor threads(pool);
  const sinq::Product qkv[] = {{&q_proj, x, q_out}, {&k_proj, x, k_out}, {&v_proj, x, v_out}};
  std::vector<std::byte> workspace(sinq::matmul_workspace(qkv, threads.width()));  // once, for the most tokens
  sinq::matmul(qkv, {.executor = &threads, .workspace = workspace});               // one call, allocates nothing

  return error < 0.2F && q_out == y && k_out == y && v_out == y ? 0 : 1;
}
