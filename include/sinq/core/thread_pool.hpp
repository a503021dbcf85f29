// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "executor.hpp"

namespace sinq::inline SINQ_ABI {

/// The threads of an `Eigen::ThreadPool` (or anything with its interface) and the calling thread beside them. Indices
/// are handed out one by one, so that uneven tasks and busy cores even out. Must not be used from inside one of its own
/// tasks: the pool may have no thread left.
class ThreadPoolExecutor final : public Executor {
 public:
  explicit ThreadPoolExecutor(Eigen::ThreadPoolInterface& pool) : pool_(&pool) {}

  [[nodiscard]] int width() const noexcept override { return pool_->NumThreads() + 1; }

  void run(std::int64_t count, TaskRef task) override {
    std::atomic<std::int64_t> next{0};
    const auto work = [&](int worker) {
      for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i, worker);
    };
    const int helpers = static_cast<int>(std::clamp<std::int64_t>(count - 1, 0, pool_->NumThreads()));
    Eigen::Barrier done(static_cast<unsigned>(helpers));
    for (int h = 1; h <= helpers; ++h)
      pool_->Schedule([&work, &done, h] {
        work(h);
        done.Notify();
      });
    work(0);
    done.Wait();
  }

 private:
  Eigen::ThreadPoolInterface* pool_;
};

}  // namespace sinq::inline SINQ_ABI
