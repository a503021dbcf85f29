// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>

#if __has_include(<Eigen/ThreadPool>)  // from Eigen 5 on
#include <Eigen/ThreadPool>
#else
#include <unsupported/Eigen/CXX11/ThreadPool>
#endif

#include "executor.hpp"

namespace sinq::inline SINQ_ABI {

/// The threads of an `Eigen::ThreadPool` (or anything with its interface) and the calling thread beside them. Indices
/// are handed out one by one, so that uneven tasks and busy cores even out. Must not be used from inside one of its own
/// tasks: the pool may have no thread left.
///
/// `run` allocates nothing: what it gives to a helper is one pointer, which a std::function holds in itself, and the
/// queues of Eigen's pool have a fixed size. It takes locks, though, Eigen's: a mutex for a moment to put each helper
/// into its queue and, where a thread sleeps, to wake it; at the end the calling thread waits on a condition variable
/// for helpers that are still at work, or have yet to wake up. An index costs one atomic addition and no lock.
class ThreadPoolExecutor final : public Executor {
 public:
  explicit ThreadPoolExecutor(Eigen::ThreadPoolInterface& pool) : pool_(&pool) {}

  [[nodiscard]] int width() const noexcept override { return pool_->NumThreads() + 1; }

  void run(std::int64_t count, TaskRef task) override {
    const int helpers = static_cast<int>(std::clamp<std::int64_t>(count - 1, 0, pool_->NumThreads()));
    Work work{count, task, Eigen::Barrier(static_cast<unsigned>(helpers))};
    for (int h = 0; h < helpers; ++h) pool_->Schedule([&work] { work.help(); });
    work.run(0);
    work.done.Wait();
  }

 private:
  /// What the threads of one call share.
  struct Work {
    std::int64_t count;
    TaskRef task;
    Eigen::Barrier done;  // of the helpers
    std::atomic<std::int64_t> next{0};
    std::atomic<int> workers{1};  // numbers that are taken; the calling thread has 0

    void run(int worker) {
      for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i, worker);
    }
    void help() {
      run(workers.fetch_add(1, std::memory_order_relaxed));
      done.Notify();
    }
  };

  Eigen::ThreadPoolInterface* pool_;
};

}  // namespace sinq::inline SINQ_ABI
