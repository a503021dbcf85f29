// SPDX-License-Identifier: Apache-2.0
#include <sinq/pack.hpp>

#include "machine.hpp"

// pack/read_codes, pack/write_codes: bit streams <-> bytes. pack/pack: into kernel order, what loading costs.
// pack/dequantize: the way back to floats.

namespace {

using namespace sinq_bench;

constexpr std::int64_t kCodes = 1 << 20;

void read_codes(benchmark::State& state, int bits) {
  const std::vector<std::uint8_t> stream(static_cast<std::size_t>(kCodes * bits / 8), 0x5a);
  std::vector<std::uint8_t> codes(kCodes);
  for (auto _ : state) {
    sinq::detail::pack::read_codes(bits, stream.data(), 0, kCodes, codes.data());
    benchmark::ClobberMemory();
  }
  count_weights(state, kCodes);
}

void write_codes(benchmark::State& state, int bits) {
  std::vector<std::uint8_t> stream(static_cast<std::size_t>(kCodes * bits / 8));
  const std::vector<std::uint8_t> codes(kCodes, 1);
  for (auto _ : state) {
    sinq::detail::pack::write_codes(bits, stream.data(), 0, kCodes, codes.data());
    benchmark::ClobberMemory();
  }
  count_weights(state, kCodes);
}

void dequantize(benchmark::State& state, int bits, int width) {
  sinq::Format format;
  format.bits = bits;
  const auto q = sinq::make_quantized_matrix(format, 4096, 4096);
  const Threads threads(width);
  RowMajor out(4096, 4096);
  for (auto _ : state) sinq::dequantize(q, sinq::MatrixView<float>(out), threads.get());
  count_weights(state, q.rows * q.cols);
}

void pack_matrix(benchmark::State& state, int bits) {
  const auto q = sinq::make_quantized_matrix({.bits = bits, .scale = sinq::Aux::u8, .zero = sinq::Aux::u8}, 4096, 4096);
  for (auto _ : state) benchmark::DoNotOptimize(sinq::pack(q));
  count_weights(state, q.rows * q.cols);
}

const bool kRegistered = [] {
  for (int bits : sinq::kBitWidths) {
    const std::string suffix = "/bits:" + std::to_string(bits);
    add("pack/read_codes" + suffix, [bits](benchmark::State& s) { read_codes(s, bits); });
    add("pack/write_codes" + suffix, [bits](benchmark::State& s) { write_codes(s, bits); });
    add("pack/pack" + suffix + "/" + shape(4096, 4096, 1), [bits](benchmark::State& s) { pack_matrix(s, bits); });
    for (int width : {1, 2})
      add("pack/dequantize" + suffix + "/" + shape(4096, 4096, width),
          [bits, width](benchmark::State& s) { dequantize(s, bits, width); });
  }
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
