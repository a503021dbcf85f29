// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "arithmetic.hpp"
#include "memory.hpp"

namespace sinq_bench {

/// The least time that a piece of work can take: what reading its bytes from memory takes, measured between its calls,
/// or its arithmetic, measured before and after.
class Limit {
 public:
  using Seconds = std::function<double()>;

  Limit(
      const Threads& threads, std::int64_t bytes, Seconds arithmetic = [] { return 0.0; })
      : threads_(threads), memory_(bytes), arithmetic_(std::move(arithmetic)), before_(arithmetic_()) {}

  void once() { memory_.once(threads_); }
  [[nodiscard]] double seconds() const { return std::max(memory_.seconds(), std::min(before_, arithmetic_())); }

 private:
  const Threads& threads_;
  MemoryRead memory_;
  Seconds arithmetic_;
  double before_;
};

/// Seconds that so many operations of a kind take; 0 where there is no code that measures it.
inline double operation_seconds(const Threads& threads, Unit unit, double operations) {
  const double peak = arithmetic_peak(threads, sinq::current_isa(), unit);
  return peak == 0 ? 0 : 1e-9 * operations / peak;
}

/// Of a call: the weights that it goes through, and how many bytes it moves for each.
inline void count(benchmark::State& state, std::int64_t weights, double bytes_per_weight, double share_of_limit) {
  count_weights(state, weights);
  state.counters["bytes_per_weight"] = bytes_per_weight;
  state.counters["share_of_limit"] = share_of_limit;
}

}  // namespace sinq_bench
