// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <memory>
#include <sinq/core/thread_pool.hpp>
#include <string>

// What all benchmarks share: the caller's threads, weights, and how a benchmark is registered so that `threads` in its
// name is the executor's width and rates are wall-clock.

namespace sinq_bench {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// An executor of the given width on threads of its own.
class Threads {
 public:
  explicit Threads(int width) : pool_(std::max(width - 1, 1)) {
    if (width > 1)
      executor_ = std::make_unique<sinq::ThreadPoolExecutor>(pool_);
    else
      executor_ = std::make_unique<sinq::SerialExecutor>();
  }
  [[nodiscard]] sinq::Executor* get() const { return executor_.get(); }

 private:
  Eigen::ThreadPool pool_;
  std::unique_ptr<sinq::Executor> executor_;
};

/// Normal weights with rows and columns of uneven size, as linear layers have: the same for every run.
inline RowMajor weights(std::int64_t rows, std::int64_t cols) {
  std::uint64_t state = 0x9e3779b97f4a7c15;
  const auto uniform = [&] {  // xorshift64*, 24 bits
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return static_cast<float>((state * 0x2545f4914f6cdd1d) >> 40) * 0x1p-24f;
  };
  RowMajor w(rows, cols);
  for (std::int64_t k = 0; k < w.size(); ++k) w.data()[k] = uniform() + uniform() + uniform() - 1.5f;  // nearly normal
  for (std::int64_t i = 0; i < rows; ++i) w.row(i) *= 0.01f + 0.04f * uniform();
  for (std::int64_t j = 0; j < cols; ++j) w.col(j) *= 0.5f + uniform();
  return w;
}

inline std::string shape(std::int64_t rows, std::int64_t cols, int threads) {
  return "rows:" + std::to_string(rows) + "/cols:" + std::to_string(cols) + "/threads:" + std::to_string(threads);
}

inline void count_weights(benchmark::State& state, std::int64_t weights) {
  state.counters["gigaweights_per_second"] =
      benchmark::Counter(1e-9 * static_cast<double>(weights), benchmark::Counter::kIsIterationInvariantRate);
}

template <class Body>
void add(const std::string& name, Body body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->Unit(benchmark::kMillisecond);
}

}  // namespace sinq_bench
