// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <sinq/pack.hpp>

#include "formats.hpp"
#include "limit.hpp"

// pack/pack: into kernel order, what loading costs. pack/dequantize: the way back to floats. share_of_limit is against
// reading as many bytes from memory as are read and written (bytes_per_weight).
//
// pack/read_codes, pack/write_codes: bit streams <-> bytes, within the caches; share_of_limit is against a copy of the
// bytes.

namespace {

using namespace sinq_bench;

constexpr std::int64_t kCodes = 1 << 20;

/// `body` beside a copy of kCodes bytes.
template <class Body>
void beside_copy(benchmark::State& state, int bits, Body body) {
  const std::vector<std::uint8_t> from(kCodes, 1);
  std::vector<std::uint8_t> to(kCodes);
  std::vector<double> copies;
  const double time = median_time(state, 8, body, [&] {
    copies.push_back(seconds_of([&] {
      std::memcpy(to.data(), from.data(), kCodes);
      benchmark::ClobberMemory();
    }));
  });
  count(state, kCodes, 1 + bits / 8.0, median(copies) / time);
}

void read_codes(benchmark::State& state, int bits) {
  const std::vector<std::uint8_t> stream(static_cast<std::size_t>(kCodes * bits / 8), 0x5a);
  std::vector<std::uint8_t> codes(kCodes);
  beside_copy(state, bits, [&] {
    sinq::detail::pack::read_codes(bits, stream.data(), 0, kCodes, codes.data());
    benchmark::ClobberMemory();
  });
}

void write_codes(benchmark::State& state, int bits) {
  std::vector<std::uint8_t> stream(static_cast<std::size_t>(kCodes * bits / 8));
  const std::vector<std::uint8_t> codes(kCodes, 1);
  beside_copy(state, bits, [&] {
    sinq::detail::pack::write_codes(bits, stream.data(), 0, kCodes, codes.data());
    benchmark::ClobberMemory();
  });
}

/// `body` beside reads of as many bytes as it moves.
template <class Body>
void beside_reads(benchmark::State& state, std::int64_t weights, std::int64_t bytes, const Threads& threads,
                  Body body) {
  Limit limit(threads, bytes);
  const double time = median_time(state, 1, body, [&] { limit.once(); });
  count(state, weights, static_cast<double>(bytes) / static_cast<double>(weights), limit.seconds() / time);
}

void dequantize(benchmark::State& state, const sinq::Format& format, int width) {
  const auto q = random_matrix(format, 4096, 4096);
  const Threads threads(width);
  RowMajor out(4096, 4096);
  beside_reads(state, out.size(), q.bytes() + 4 * out.size(), threads,
               [&] { sinq::dequantize(q, sinq::MatrixView<float>(out), threads.get()); });
}

void pack_matrix(benchmark::State& state, const sinq::Format& format, int width) {
  const auto q = random_matrix(format, 4096, 4096);
  const Threads threads(width);
  beside_reads(state, q.rows * q.cols, q.bytes() + sinq::pack(q).bytes(), threads,
               [&] { benchmark::DoNotOptimize(sinq::pack(q, threads.get())); });
}

const bool kRegistered = [] {
  std::vector<Named> formats;
  for (int bits : sinq::kBitWidths) {
    const std::string suffix = "/bits:" + std::to_string(bits);
    add("pack/read_codes" + suffix, [bits](benchmark::State& s) { read_codes(s, bits); });
    add("pack/write_codes" + suffix, [bits](benchmark::State& s) { write_codes(s, bits); });
    formats.push_back({"uniform-aux8", uniform(bits, sinq::Aux::u8)});
  }
  for (double size : {2.5, 3.0, 3.5, 4.5}) formats.push_back(preset(size));
  for (const Named& f : formats)
    for (int width : {1, 2}) {
      const std::string suffix = f.name + "/bits:" + std::to_string(f.format.bits) + "/" + shape(4096, 4096, width);
      add("pack/pack/" + suffix, [=](benchmark::State& s) { pack_matrix(s, f.format, width); });
      add("pack/dequantize/" + suffix, [=](benchmark::State& s) { dequantize(s, f.format, width); });
    }
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
