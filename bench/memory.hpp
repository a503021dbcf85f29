// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <sinq/core/large_pages.hpp>
#include <vector>

#include "machine.hpp"

namespace sinq_bench {

/// The time that a tenth of all times stay below: what the machine does between its neighbours' turns, where they share
/// it. A call of a millisecond is often undisturbed, a second never is.
inline double best_tenth(std::vector<double> times) {
  if (times.empty()) return 0;
  const auto at = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 10);
  std::nth_element(times.begin(), at, times.end());
  return *at;
}

/// What the memory gives: gigabytes per second of a linear read of 512 MB (more than caches hold, in pages of 2 MB
/// where the system gives them) by an executor of the given width, in the best tenth of pieces of 4 MB; the better of
/// no software prefetch and 4 KB ahead. Takes a tenth of a second: measured anew beside every benchmark that is judged
/// by it.
inline double dram_read(const Threads& threads) {
  using Line [[gnu::vector_size(64)]] = std::uint64_t;
  static std::vector<Line, sinq::detail::core::LargePages<Line>> memory(std::size_t{512} << 14, Line{} + 1);
  constexpr std::int64_t kPieces = 128;
  const std::int64_t lines = std::ssize(memory) / kPieces;
  double best = 0;
  for (int ahead : {0, 64, 0, 64}) {
    std::vector<double> times(kPieces);
    threads.get()->run(kPieces, [&](std::int64_t piece, int) {
      const auto start = std::chrono::steady_clock::now();
      const Line* from = memory.data() + piece * lines;
      Line sum[4] = {};
      for (std::int64_t k = 0; k + 4 <= lines; k += 4)
        for (int l = 0; l < 4; ++l) {
          if (ahead != 0) __builtin_prefetch(from + k + l + ahead);
          sum[l] ^= from[k + l];
        }
      benchmark::DoNotOptimize(sum);
      times[static_cast<std::size_t>(piece)] =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    });
    const auto bytes = static_cast<double>(lines * std::int64_t{sizeof(Line)} * threads.get()->width());
    best = std::max(best, 1e-9 * bytes / best_tenth(times));
  }
  return best;
}

}  // namespace sinq_bench
