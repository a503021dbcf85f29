// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <type_traits>

#include "../version.hpp"
#include "error.hpp"

namespace sinq::inline SINQ_ABI {

/// What an executor runs: `task(index, worker)`. A reference (two pointers, no allocation) to a callable that outlives
/// the call.
class TaskRef {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, TaskRef>)
      TaskRef(F&& task)  // NOLINT(google-explicit-constructor): made from a lambda at the call
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(task)))),
        call_([](void* object, std::int64_t index, int worker) {
          (*static_cast<std::remove_reference_t<F>*>(object))(index, worker);
        }) {}

  void operator()(std::int64_t index, int worker) const { call_(object_, index, worker); }

 private:
  void* object_;
  void (*call_)(void*, std::int64_t, int);
};

/// The caller's threads. The library starts none of its own.
class Executor {
 public:
  virtual ~Executor() = default;

  /// How many tasks may run at once, at least 1.
  [[nodiscard]] virtual int width() const noexcept = 0;

  /// Runs `task(index, worker)` once for every index in [0, count) and returns when all have finished. `worker` lies
  /// in [0, width()), and no two tasks that run at the same time share one: it names a piece of scratch memory.
  /// Tasks do not throw. Which worker runs which index, and in what order, is up to the executor: results never
  /// depend on it. (An executor that runs some on the calling thread lets `quantize` ask its progress callback more
  /// often, and stop sooner.)
  virtual void run(std::int64_t count, TaskRef task) = 0;
};

/// Everything on the calling thread.
class SerialExecutor final : public Executor {
 public:
  [[nodiscard]] int width() const noexcept override { return 1; }
  void run(std::int64_t count, TaskRef task) override {
    for (std::int64_t i = 0; i < count; ++i) task(i, 0);
  }
};

namespace detail::core {

/// How many pieces of scratch memory an executor's workers need.
[[nodiscard]] inline int width_of(const Executor& executor) {
  const int width = executor.width();
  require(width >= 1, "executor.width()", width, "must be positive");
  return width;
}

/// Runs tasks that may throw. The exception of the lowest failing index comes out on the calling thread: every lower
/// index has run by then, so it is the same one whatever the number of threads.
template <class Task>
void run_throwing(Executor& executor, std::int64_t count, Task&& task) {
#if SINQ_EXCEPTIONS
  std::atomic<std::int64_t> failed{count};
  std::exception_ptr error;
  std::mutex guard;
  executor.run(count, [&](std::int64_t index, int worker) {
    if (index > failed.load(std::memory_order_relaxed)) return;
    try {
      task(index, worker);
    } catch (...) {
      const std::lock_guard lock(guard);
      if (index < failed.load(std::memory_order_relaxed)) {
        failed.store(index, std::memory_order_relaxed);
        error = std::current_exception();
      }
    }
  });
  if (error) std::rethrow_exception(error);
#else
  executor.run(count, task);
#endif
}

}  // namespace detail::core
}  // namespace sinq::inline SINQ_ABI
