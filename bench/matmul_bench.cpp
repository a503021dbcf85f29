// SPDX-License-Identifier: Apache-2.0
#include <sinq/sinq.hpp>

#include "machine.hpp"

// matmul/<path>/<format>/<numerics>: y = x W^T, beside Eigen's float product of the same shape. The weights are one
// matrix of 4096 x 4096: at 4 bits 9 MB, so a large last-level cache may hold it.

namespace {

using namespace sinq_bench;

void product(benchmark::State& state, sinq::Isa isa, int bits, std::int64_t tokens, int width) {
  constexpr std::int64_t n = 4096;
  const auto p = sinq::pack(sinq::quantize(weights(n, n), {.bits = bits, .balance = sinq::Balancing::none}));
  const Threads threads(width);
  const RowMajor x = weights(tokens, n);
  RowMajor y(tokens, n);
  std::vector<std::byte> workspace(sinq::matmul_workspace(p, tokens, width));
  const sinq::Isa before = sinq::current_isa();
  sinq::force_isa(isa);
  for (auto _ : state) sinq::matmul(p, x, y, {.executor = threads.get(), .workspace = workspace});
  sinq::force_isa(before);
  count_weights(state, n * n * tokens);
  state.counters["bytes_per_weight"] = static_cast<double>(p.bytes()) / static_cast<double>(n * n);
}

void eigen(benchmark::State& state, std::int64_t tokens) {
  constexpr std::int64_t n = 4096;
  const RowMajor w = weights(n, n);
  const RowMajor x = weights(tokens, n);
  RowMajor y(tokens, n);
  for (auto _ : state) {
    y.noalias() = x * w.transpose();
    benchmark::DoNotOptimize(y.data());
  }
  count_weights(state, n * n * tokens);
}

const bool kRegistered = [] {
  for (sinq::Isa isa : sinq::supported_isas())
    for (int bits : sinq::kBitWidths)
      for (int tokens : {1, 16, 512})
        for (int width : {1, 2})
          if (bits == 4 || tokens == 1)
            add(std::string("matmul/") + name_of(isa) + "/uniform-aux16/exact/bits:" + std::to_string(bits) +
                    "/group:64/tokens:" + std::to_string(tokens) + "/" + shape(4096, 4096, width),
                [=](benchmark::State& s) { product(s, isa, bits, tokens, width); });
  for (int tokens : {1, 16, 512})
    add("matmul/eigen/float/exact/tokens:" + std::to_string(tokens) + "/" + shape(4096, 4096, 1),
        [=](benchmark::State& s) { eigen(s, tokens); });
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
