// SPDX-License-Identifier: Apache-2.0
#include <sinq/quantize.hpp>

#include "machine.hpp"

// quantize/<method>: weights in, packed bits out.

namespace {

using namespace sinq_bench;

void quantize(benchmark::State& state, const sinq::QuantizeConfig& config, std::int64_t rows, std::int64_t cols,
              int width) {
  const RowMajor w = weights(rows, cols);
  const Threads threads(width);
  for (auto _ : state)
    benchmark::DoNotOptimize(
        sinq::quantize(sinq::WeightView(sinq::MatrixRef<float>(w)), config, {.executor = threads.get()}));
  count_weights(state, rows * cols);
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
  for (const auto& [name, config] : methods)
    for (int width : {1, 2})
      add(detail::core::text("quantize/", name, "/bits:", config.bits, "/") + shape(4096, 4096, width),
          [config = config, width](benchmark::State& s) { quantize(s, config, 4096, 4096, width); });
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
