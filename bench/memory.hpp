// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
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

/// How long it takes to read so many bytes from memory, in wall-clock time on all threads of an executor: linear reads
/// of ever other parts of 1 GB (in pages of 2 MB where the system gives them), without software prefetch and 4 KB ahead
/// in turn. Meant to be called between the calls of what is judged by it, so that both meet the same neighbours.
class MemoryRead {
 public:
  explicit MemoryRead(std::int64_t bytes) : lines_(bytes / kPieces / 256 * 4) {}

  void once(const Threads& threads) {
    using Line [[gnu::vector_size(64)]] = std::uint64_t;
    static const std::vector<Line, sinq::detail::core::LargePages<Line>> memory(std::size_t{1} << 24, Line{} + 1);
    const auto read = [&]<bool kAhead>(const Line* from) {
      Line sum[4] = {};
      for (std::int64_t k = 0; k < lines_; k += 4)
        for (int l = 0; l < 4; ++l) {
          if (kAhead) __builtin_prefetch(from + k + l + 64);
          sum[l] ^= from[k + l];
        }
      benchmark::DoNotOptimize(sum);
    };
    static std::int64_t at = 0;
    if (at + kPieces * lines_ > std::ssize(memory)) at = 0;
    const bool ahead = times_[0].size() > times_[1].size();
    const auto start = std::chrono::steady_clock::now();
    threads.get()->run(kPieces, [&](std::int64_t piece, int) {
      const Line* const from = memory.data() + at + piece * lines_;
      ahead ? read.template operator()<true>(from) : read.template operator()<false>(from);
    });
    times_[ahead ? 1 : 0].push_back(seconds_since(start));
    at += kPieces * lines_;
  }

  /// The median in seconds, of the better kind of read.
  [[nodiscard]] double seconds() const {
    return times_[1].empty() ? median(times_[0]) : std::min(median(times_[0]), median(times_[1]));
  }
  [[nodiscard]] double gigabytes_per_second() const {
    return 1e-9 * static_cast<double>(kPieces * lines_ * 64) / seconds();
  }

 private:
  static constexpr std::int64_t kPieces = 32;
  std::int64_t lines_;  // of 64 bytes, of a piece
  std::vector<double> times_[2];
};

}  // namespace sinq_bench
