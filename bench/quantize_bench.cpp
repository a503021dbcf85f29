// SPDX-License-Identifier: Apache-2.0
#include <sinq/quantize.hpp>

#include "limit.hpp"

// quantize/<method>: weights in bfloat16 in, packed bits out.
//
// share_of_limit: nobody can do without reading the weights and writing what comes out (bytes_per_weight, taken as if
// all were reads), nor, where weights are balanced, without five operations for each look at one (balance_bench.cpp);
// looks are counted in the first tile. What a method does besides (the search of a fit, say) is its own affair, so that
// a method that searches more has a smaller share, not a limit of its own.

namespace {

using namespace sinq_bench;

/// Looks at a weight until the first tile is balanced.
int looks_of(const sinq::QuantizeConfig& config, const sinq::WeightView& w) {
  if (config.balance == sinq::Balancing::none) return 0;
  RowMajor tile(w.rows, config.group_size);
  w.load(0, w.rows, 0, config.group_size, tile.data(), config.group_size);
  int looks = 0;
  (void)sinq::detail::balance::sinkhorn_tile(tile.data(), tile.cwiseAbs().maxCoeff(), w.rows, config.group_size,
                                             config.sinkhorn, [&](auto, auto, double) { ++looks; });
  return looks;
}

void quantize(benchmark::State& state, const sinq::QuantizeConfig& config, std::int64_t rows, std::int64_t cols,
              int width) {
  using Bf16 = Eigen::Matrix<sinq::bfloat16, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Bf16 w = weights(rows, cols).cast<sinq::bfloat16>();
  const sinq::WeightView view{sinq::MatrixRef<sinq::bfloat16>(w)};
  const Threads threads(width);
  const double operations = 5.0 * looks_of(config, view) * static_cast<double>(rows * cols);
  const std::int64_t bytes =
      2 * rows * cols +
      sinq::make_quantized_matrix(sinq::detail::quantize::format_of(config, true), rows, cols).bytes();
  Limit limit(threads, bytes, [&] { return operation_seconds(threads, Unit::fma, operations); });
  const double time = median_time(
      state, 1, [&] { benchmark::DoNotOptimize(sinq::quantize(view, config, {.executor = threads.get()})); },
      [&] { limit.once(); });
  count(state, rows * cols, static_cast<double>(bytes) / static_cast<double>(rows * cols), limit.seconds() / time);
}

const bool kRegistered = [] {
  using namespace sinq;
  const std::pair<const char*, QuantizeConfig> methods[] = {
      {"sinq", {}},
      {"rtn", {.balance = Balancing::none}},
      {"hqq", {.refine = Refine::hqq, .balance = Balancing::none}},
      {"nf4", {.rounding = Rounding::nf4, .balance = Balancing::none}},
      {"sinq-hqq", {.refine = Refine::hqq}},
      {"sinq-nf4", {.rounding = Rounding::nf4}},
      {"preset-2.5", preset(2.5)},
      {"preset-3.5", preset(3.5)},
      {"preset-4.5", preset(4.5)},
      {"preset-6", preset(6)},
  };
  const auto add_shape = [](const char* name, const QuantizeConfig& config, std::int64_t rows, std::int64_t cols) {
    for (int width : {1, 2})
      add(detail::core::text("quantize/", name, "/bits:", config.bits, "/") + shape(rows, cols, width),
          [config, rows, cols, width](benchmark::State& s) { quantize(s, config, rows, cols, width); });
  };
  for (const auto& [name, config] : methods) add_shape(name, config, 4096, 4096);
  for (const auto& [rows, cols] : {std::pair{14336, 4096}, {4096, 14336}}) {
    add_shape("sinq", {}, rows, cols);
    add_shape("preset-3.5", preset(3.5), rows, cols);
    add_shape("preset-4.5", preset(4.5), rows, cols);
  }
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
