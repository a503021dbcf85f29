// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <memory>
#include <sinq/core/thread_pool.hpp>
#include <string>
#include <vector>

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

[[nodiscard]] inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

[[nodiscard]] inline double median(std::vector<double> times) {
  if (times.empty()) return 0;
  const auto middle = times.begin() + std::ssize(times) / 2;
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

template <class Body>
[[nodiscard]] double seconds_of(Body&& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return seconds_since(start);
}

/// Calls body() as often as `state` wants, and returns the median time of a call. In turns of so many, the first call
/// of a turn is followed by as many calls of beside(), which is not on the clock: what body() is compared with, so that
/// what disturbs one disturbs both.
template <class Body, class Beside>
double median_time(benchmark::State& state, std::size_t turn, Body&& body, Beside&& beside) {
  std::vector<double> times;
  for (auto _ : state) {
    times.push_back(seconds_of(body));
    if (times.size() % turn != 1 % turn) continue;
    state.PauseTiming();
    for (std::size_t k = 0; k < turn; ++k) beside();
    state.ResumeTiming();
  }
  return median(std::move(times));
}

template <class Body>
void add(const std::string& name, Body body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->Unit(benchmark::kMillisecond);
}

}  // namespace sinq_bench
