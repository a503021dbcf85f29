// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <sinq/balance.hpp>

#include "machine.hpp"

// balance/sinkhorn: all tiles of a matrix of float, one tile after another in the same buffers. Balancing ends early
// where it gets no better, with ordinary weights after 5 to 8 of 16 looks; here one column is so large that all 16 are
// taken.

namespace {

using namespace sinq_bench;

void sinkhorn(benchmark::State& state, std::int64_t rows, std::int64_t cols, int width) {
  RowMajor w = weights(rows, 64);                 // tiles are alike: one serves for all
  w.col(5) *= 0x1p20f;                            // an update takes a factor of 2 off it
  const float largest = w.cwiseAbs().maxCoeff();  // known from the check of what was loaded
  int looks = 0;
  (void)sinq::detail::balance::sinkhorn_tile(w.data(), largest, rows, 64, {}, [&](auto, auto, double) { ++looks; });
  state.counters["looks"] = looks;
  const Threads threads(width);
  for (auto _ : state) {
    threads.get()->run(cols / 64, [&](std::int64_t, int) {
      benchmark::DoNotOptimize(sinq::detail::balance::sinkhorn_tile(w.data(), largest, rows, 64, {}));
    });
  }
  count_weights(state, rows * cols);
}

const bool kRegistered = [] {
  for (auto [rows, cols] : {std::pair{4096, 4096}, std::pair{14336, 4096}})
    for (int width : {1, 2})
      add("balance/sinkhorn/" + shape(rows, cols, width),
          [rows = rows, cols = cols, width](benchmark::State& s) { sinkhorn(s, rows, cols, width); });
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
