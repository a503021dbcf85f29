// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <sinq/core/lanes.hpp>
#include <sinq/core/large_pages.hpp>
#include <vector>

#include "machine.hpp"

namespace sinq_bench {

[[nodiscard]] inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

[[nodiscard]] inline double median(std::vector<double> times) {
  if (times.empty()) return 0;
  const auto middle = times.begin() + std::ssize(times) / 2;
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

/// Reads `count` floats, a multiple of 64, with the widest registers of the instruction set in use.
struct LinearRead {
  template <int kWidth>
  [[gnu::always_inline]] static float run(const float* from, std::int64_t count, std::int64_t ahead) noexcept {
    using Float = sinq::detail::core::Lanes<kWidth>;
    Float most[4];
    for (std::int64_t k = 0; k < count; k += 4 * kWidth)
      for (int l = 0; l < 4; ++l) {
        const float* const at = from + k + l * kWidth;
        if (ahead != 0) __builtin_prefetch(at + ahead);
        most[l] = max(most[l], Float::load(at));
      }
    return max(max(most[0], most[1]), max(most[2], most[3])).fold(sinq::detail::core::Most{});
  }
};

/// How long it takes to read so many bytes from memory, in wall-clock time on all threads of an executor: linear reads
/// of ever other parts of 1 GB (in pages of 2 MB where the system gives them), without software prefetch and 4 KB ahead
/// in turn. Meant to be called between the calls of what is judged by it, so that both meet the same neighbours.
class MemoryRead {
 public:
  explicit MemoryRead(std::int64_t bytes) : floats_(bytes / kPieces / 256 * 64) { (void)memory(); }

  void once(const Threads& threads) {
    static std::int64_t at = 0;
    if (at + kPieces * floats_ > std::ssize(memory())) at = 0;
    const bool ahead = times_[0].size() > times_[1].size();
    const auto start = std::chrono::steady_clock::now();
    threads.get()->run(kPieces, [&](std::int64_t piece, int) {
      benchmark::DoNotOptimize(sinq::detail::core::on_isa<LinearRead>(memory().data() + at + piece * floats_, floats_,
                                                                      std::int64_t{ahead ? 1024 : 0}));
    });
    times_[ahead ? 1 : 0].push_back(seconds_since(start));
    at += kPieces * floats_;
  }

  /// The median in seconds, of the better kind of read.
  [[nodiscard]] double seconds() const {
    return times_[1].empty() ? median(times_[0]) : std::min(median(times_[0]), median(times_[1]));
  }
  [[nodiscard]] double gigabytes_per_second() const {
    return 1e-9 * static_cast<double>(kPieces * floats_ * 4) / seconds();
  }

 private:
  using Memory = std::vector<float, sinq::detail::core::LargePages<float>>;
  static const Memory& memory() {
    static const Memory all(std::size_t{1} << 28, 1.0f);
    return all;
  }

  static constexpr std::int64_t kPieces = 32;
  std::int64_t floats_;  // of a piece
  std::vector<double> times_[2];
};

}  // namespace sinq_bench
