// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <sinq/core/lanes.hpp>
#include <sinq/core/large_pages.hpp>
#include <utility>

#include "machine.hpp"

namespace sinq_bench {

/// How far ahead of what is read the memory is asked: not at all, 4 KB into the first-level cache, or 16 KB into the
/// second-level one.
enum class Ahead : std::uint8_t { none, near, far };

/// Reads `count` floats, a multiple of 64, with the widest registers of the instruction set in use.
struct LinearRead {
  template <int kWidth>
  [[gnu::always_inline]] static float run(const float* from, std::int64_t count, Ahead ahead) noexcept {
    if (ahead == Ahead::none) return read<kWidth, Ahead::none>(from, count);
    if (ahead == Ahead::near) return read<kWidth, Ahead::near>(from, count);
    return read<kWidth, Ahead::far>(from, count);
  }
  template <int kWidth, Ahead kAhead>
  [[gnu::always_inline]] static float read(const float* from, std::int64_t count) noexcept {
    using Float = sinq::detail::core::Lanes<kWidth>;
    Float most[4];
    for (std::int64_t k = 0; k < count; k += 4 * kWidth)
      for (int l = 0; l < 4; ++l) {
        const float* const at = from + k + l * kWidth;
        if constexpr (kAhead == Ahead::near) __builtin_prefetch(at + 1024);
        if constexpr (kAhead == Ahead::far) __builtin_prefetch(at + 4096, 0, 2);
        most[l] = max(most[l], Float::load(at));
      }
    return max(max(most[0], most[1]), max(most[2], most[3])).fold(sinq::detail::core::Most{});
  }
};

/// How long it takes to read so many bytes from memory, in wall-clock time on all threads of an executor: linear reads
/// of ever other parts of 1 GB (in pages of 2 MB where the system gives them), with the prefetch that was fastest when
/// so many threads first read. Meant to be called between the calls of what is judged by it, so that both meet the same
/// neighbours.
class MemoryRead {
 public:
  explicit MemoryRead(std::int64_t bytes) : floats_(bytes / kPieces / 256 * 64) { (void)memory(); }

  void once(const Threads& threads) { times_.push_back(read(threads, best(threads))); }

  /// The median.
  [[nodiscard]] double seconds() const { return median(times_); }
  [[nodiscard]] double gigabytes_per_second() const {
    return 1e-9 * static_cast<double>(kPieces * floats_ * 4) / seconds();
  }

 private:
  using Memory = std::vector<float, sinq::detail::core::LargePages<float>>;
  static const Memory& memory() {
    static const Memory all(std::size_t{1} << 28, 1.0f);
    return all;
  }

  [[nodiscard]] double read(const Threads& threads, Ahead ahead) const {
    static std::int64_t at = 0;
    if (at + kPieces * floats_ > std::ssize(memory())) at = 0;
    const float* const from = memory().data() + at;
    at += kPieces * floats_;
    return seconds_of([&] {
      threads.get()->run(kPieces, [&](std::int64_t piece, int) {
        benchmark::DoNotOptimize(sinq::detail::core::on_isa<LinearRead>(from + piece * floats_, floats_, ahead));
      });
    });
  }

  static Ahead best(const Threads& threads) {
    static std::map<std::pair<int, sinq::Isa>, Ahead> known;
    const auto [found, is_new] = known.try_emplace({threads.get()->width(), sinq::current_isa()});
    if (is_new) {
      constexpr int kKinds = 3, kRounds = 9;
      const MemoryRead trial(std::int64_t{1} << 25);
      std::vector<double> times[kKinds];
      for (int round = 0; round < kRounds; ++round)
        for (int kind = 0; kind < kKinds; ++kind) times[kind].push_back(trial.read(threads, static_cast<Ahead>(kind)));
      const auto less = [](const auto& a, const auto& b) { return median(a) < median(b); };
      found->second = static_cast<Ahead>(std::min_element(times, times + kKinds, less) - times);
    }
    return found->second;
  }

  static constexpr std::int64_t kPieces = 32;
  std::int64_t floats_;  // of a piece
  std::vector<double> times_;
};

}  // namespace sinq_bench
