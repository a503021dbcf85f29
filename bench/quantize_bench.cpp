// SPDX-License-Identifier: Apache-2.0
#include <sinq/quantize.hpp>

#include "machine.hpp"

// quantize/<method>: weights in bfloat16 in, packed bits out.

namespace {

using namespace sinq_bench;

void quantize(benchmark::State& state, const sinq::QuantizeConfig& config, std::int64_t rows, std::int64_t cols,
              int width) {
  using Bf16 = Eigen::Matrix<sinq::bfloat16, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Bf16 w = weights(rows, cols).cast<sinq::bfloat16>();
  const sinq::WeightView view{sinq::MatrixRef<sinq::bfloat16>(w)};
  const Threads threads(width);
  for (auto _ : state) benchmark::DoNotOptimize(sinq::quantize(view, config, {.executor = threads.get()}));
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
