// SPDX-License-Identifier: Apache-2.0
#include <sinq/balance.hpp>

#include "limit.hpp"

// balance/sinkhorn: all tiles of a matrix of float, each fetched from the matrix, as quantizing does, into memory that
// a worker has for its tiles, and balanced there. Balancing ends early where it gets no better, with ordinary weights
// after 5 to 8 of 16 looks; here one column of every tile is so large that all 16 are taken.
//
// share_of_limit: the weights come from memory once, since what follows happens within a tile, which a second- or
// third-level cache holds. A look at a weight takes at least five operations (times a row's and a column's factor, sums
// and squares of rows and columns), each counted as if it took the place of an fma. That binds from three looks or so
// on, wherever memory is not much slower than usual.

namespace {

using namespace sinq_bench;

constexpr std::int64_t kTile = 64;

/// A matrix whose tiles are alike. (The one before is gone when another one is asked for.)
const RowMajor& matrix(std::int64_t rows, std::int64_t cols) {
  static RowMajor w;
  if (w.rows() == rows && w.cols() == cols) return w;
  RowMajor tile = weights(rows, kTile);
  tile.col(5) *= 0x1p17f;  // an update takes a factor of 2 off it; beyond 2^16 a tile would be measured in units
  w = tile.replicate(1, cols / kTile);
  return w;
}

void sinkhorn(benchmark::State& state, std::int64_t rows, std::int64_t cols, int width) {
  const RowMajor& w = matrix(rows, cols);
  const sinq::WeightView view{sinq::MatrixRef<float>(w)};
  const float largest = w.leftCols(kTile).cwiseAbs().maxCoeff();  // known from the check of what was loaded
  const Threads threads(width);
  std::vector<RowMajor> tiles(static_cast<std::size_t>(width), w.leftCols(kTile));
  int looks = 0;
  (void)sinq::detail::balance::sinkhorn_tile(tiles[0].data(), largest, rows, kTile, {},
                                             [&](auto, auto, double) { ++looks; });
  Limit limit(threads, 4 * rows * cols,
              [&] { return operation_seconds(threads, Unit::fma, 5.0 * looks * static_cast<double>(rows * cols)); });
  const double time = median_time(
      state, 1,
      [&] {
        threads.get()->run(cols / kTile, [&](std::int64_t t, int worker) {
          float* const tile = tiles[static_cast<std::size_t>(worker)].data();
          view.load(0, rows, t * kTile, kTile, tile, kTile);
          benchmark::DoNotOptimize(sinq::detail::balance::sinkhorn_tile(tile, largest, rows, kTile, {}));
        });
      },
      [&] { limit.once(); });
  count(state, rows * cols, 4, limit.seconds() / time);
  state.counters["looks"] = looks;
}

const bool kRegistered = [] {
  for (auto [rows, cols] : {std::pair{4096, 4096}, std::pair{14336, 4096}, std::pair{4096, 14336}})
    for (int width : {1, 2})
      add("balance/sinkhorn/" + shape(rows, cols, width),
          [rows = rows, cols = cols, width](benchmark::State& s) { sinkhorn(s, rows, cols, width); });
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
