// SPDX-License-Identifier: Apache-2.0
#include <sinq/sinq.hpp>

#include "arithmetic.hpp"
#include "memory.hpp"
#include "peers.hpp"

// matmul/<path>/<format>/<numerics>: y = x W^T, beside the float products of Eigen, OpenBLAS and oneDNN (where they are
// installed) of the same shape and what the machine gives (limit/...). Up to 16 tokens, copies of the matrix are
// visited in turn, more than 1 GB of them, so that no cache helps. share_of_limit is the time that the limit
// which binds asks for, over the median time of a call: reading the bytes of the matrix, measured between the calls,
// or the multiplications, of which exact numerics in integers need three, measured just before and after. Calls and
// reads take turns of eight: as in a model, calls follow calls, and the first ones after something else are up to a
// tenth slower.

namespace {

using namespace sinq_bench;

constexpr std::int64_t kRotate = std::int64_t{11} << 27;  // bytes
constexpr std::size_t kTurn = 8;

struct Named {
  const char* name;
  sinq::Format format;
};

/// A matrix of random codes; what its numbers are does not matter for the time.
sinq::QuantizedMatrix random_matrix(const sinq::Format& format, std::int64_t rows, std::int64_t cols) {
  auto q = sinq::make_quantized_matrix(format, rows, cols);
  std::uint64_t state = 0x9e3779b97f4a7c15;
  const auto fill = [&](std::vector<std::uint8_t>& bytes, sinq::Aux aux) {
    for (std::size_t k = 0; k < bytes.size(); ++k) {
      state ^= state >> 12;
      state ^= state << 25;
      state ^= state >> 27;
      bytes[k] = static_cast<std::uint8_t>(state * 0x2545f4914f6cdd1d >> 56);
      if (sinq::is_float(aux)) bytes[k] = k % 2 ? 0x21 : bytes[k];  // half: about 0.01
    }
  };
  fill(q.codes, sinq::Aux::u8);
  fill(q.scale, format.scale);
  fill(q.zero, format.zero);
  fill(q.coarse_scale, sinq::Aux::f16);
  fill(q.col_scale, format.col_scale);
  if (format.levels == sinq::Levels::table)
    for (int k = 0; k < 1 << format.bits; ++k)
      q.table[static_cast<std::size_t>(k)] = static_cast<std::int8_t>(-120 + 240 * k / ((1 << format.bits) - 1));
  return q;
}

/// Copies of one matrix, kept until another one is asked for.
const std::vector<sinq::PackedMatrix>& copies(const Named& f, std::int64_t rows, std::int64_t cols, bool many) {
  static std::string held;
  static std::vector<sinq::PackedMatrix> all;
  const std::string key = f.name + std::to_string(f.format.bits) + shape(rows, cols, many);
  if (key != held) {
    all.clear();
    all.push_back(sinq::pack(random_matrix(f.format, rows, cols)));
    const std::int64_t count = many ? kRotate / all[0].bytes() + 1 : 1;
    while (std::ssize(all) < count) all.push_back(all[0]);
    held = key;
  }
  return all;
}

/// Seconds that the multiplications of a product take at least.
double arithmetic_seconds(const sinq::Format& f, const sinq::Tiling& t, sinq::Isa isa, sinq::Numerics numerics,
                          std::int64_t tokens, const Threads& threads) {
  const bool fast = numerics == sinq::Numerics::fast;
  const bool nf = f.levels == sinq::Levels::nf4 || f.levels == sinq::Levels::nf3;
  const bool floats = !fast && (nf || isa == sinq::Isa::portable || (isa == sinq::Isa::avx2 && tokens >= 4));
  using sinq::detail::matmul::TileProducts;
  const TileProducts tiles = sinq::detail::matmul::tile_products(f, t, tokens, numerics);
  if (isa == sinq::Isa::amx && tiles == TileProducts::none) isa = sinq::Isa::avx512vbmi;
  const Unit unit = tiles == TileProducts::bfloat16 ? Unit::bfloat16 : floats ? Unit::fma : Unit::bytes;
  const double peak = arithmetic_peak(threads, isa, unit);
  return peak == 0 ? 0 : 1e-9 * static_cast<double>(t.rows * t.cols * tokens) * (fast || floats ? 1 : 3) / peak;
}

void product(benchmark::State& state, sinq::Isa isa, sinq::Numerics numerics, const Named& f, std::int64_t tokens,
             std::int64_t rows, std::int64_t cols, int width) {
  const bool decode = tokens <= 16;
  const auto& all = copies(f, rows, cols, decode);
  const Threads threads(width);
  const RowMajor x = weights(tokens, cols);
  RowMajor y(tokens, rows);
  const sinq::Isa before = sinq::current_isa();
  sinq::force_isa(isa);
  std::vector<std::byte> workspace(sinq::matmul_workspace(all[0], tokens, width));
  const sinq::Tiling tiling = sinq::tiling(rows, cols, f.format.group_size, f.format.tile);
  const auto arithmetic = [&] { return arithmetic_seconds(f.format, tiling, isa, numerics, tokens, threads); };
  const double first = arithmetic();
  MemoryRead memory(all[0].bytes());
  std::size_t k = 0;
  std::vector<double> times;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    sinq::matmul(all[k], x, y, {.executor = threads.get(), .workspace = workspace, .numerics = numerics});
    times.push_back(seconds_since(start));
    k = k + 1 == all.size() ? 0 : k + 1;
    if (times.size() % kTurn != 1) continue;
    state.PauseTiming();
    for (std::size_t read = 0; read < kTurn; ++read) memory.once(threads);
    state.ResumeTiming();
  }
  const double limit = std::max(memory.seconds(), std::min(first, arithmetic()));
  sinq::force_isa(before);
  count_weights(state, rows * cols * tokens);
  state.counters["bytes_per_weight"] = static_cast<double>(all[0].bytes()) / static_cast<double>(rows * cols);
  if (isa != sinq::Isa::portable || decode)  // its arithmetic has no limit of its own
    state.counters["share_of_limit"] = limit / median(times);
}

/// A peer's product: y = x W^T in floats, or from bfloat16.
template <class Peer>
void peer(benchmark::State& state, std::int64_t tokens, int width) {
  constexpr std::int64_t n = 4096;
  const RowMajor w = weights(n, n);
  const RowMajor x = weights(tokens, n);
  RowMajor y(tokens, n);
  Peer product(w, x, y, width);
  for (auto _ : state) {
    product.run();
    benchmark::DoNotOptimize(y.data());
  }
  count_weights(state, n * n * tokens);
}

template <class Peer>
void add_peer() {
  for (int tokens : {1, 16, 512})
    for (int width : {1, 2})
      if (width == 1 || Peer::kThreads)
        add(std::string("matmul/") + Peer::kName + "/exact/tokens:" + std::to_string(tokens) + "/" +
                shape(4096, 4096, width),
            [=](benchmark::State& s) { peer<Peer>(s, tokens, width); });
}

sinq::Format uniform(int bits, sinq::Aux aux) {
  return {.bits = bits, .scale = aux, .zero = aux};
}

sinq::Format preset(double size) {
  const sinq::QuantizeConfig c = sinq::preset(size);
  return {.bits = c.bits,
          .levels = c.rounding == sinq::Rounding::table ? sinq::Levels::table : sinq::Levels::uniform,
          .group_size = c.group_size,
          .scale = c.scale,
          .zero = c.zero,
          .signed_scale = sinq::is_integer(c.scale)};
}

const bool kRegistered = [] {
  using sinq::Aux;
  for (int width : {1, 2})
    add("limit/dram_read/threads:" + std::to_string(width), [=](benchmark::State& s) {
      const Threads threads(width);
      MemoryRead memory(std::int64_t{1} << 26);
      for (auto _ : s) memory.once(threads);
      s.counters["gigabytes_per_second"] = memory.gigabytes_per_second();
    });
  for (sinq::Isa isa : sinq::supported_isas())
    for (Unit unit : {Unit::fma, Unit::bytes, Unit::bfloat16})
      for (int width : {1, 2}) {
        const bool own = isa == sinq::Isa::amx ? unit != Unit::fma : unit != Unit::bfloat16;
        if (!own || isa == sinq::Isa::portable || isa == sinq::Isa::avx512vbmi) continue;
        add(std::string("limit/") +
                (unit == Unit::bfloat16 ? "bf16_products/"
                 : unit == Unit::fma    ? "fma/"
                                        : "byte_products/") +
                name_of(isa) + "/threads:" + std::to_string(width),
            [=](benchmark::State& s) {
              const Threads threads(width);
              double best = 0;
              for (auto _ : s) best = std::max(best, arithmetic_peak(threads, isa, unit));
              s.counters["gigaproducts_per_second"] = best;
            });
      }
  std::vector<Named> formats;
  for (int bits : sinq::kBitWidths) formats.push_back({"uniform-aux8", uniform(bits, Aux::u8)});
  formats.push_back({"uniform-aux16", uniform(4, Aux::f16)});
  formats.push_back({"uniform-aux8-without-col-scale", uniform(4, Aux::u8)});
  formats.back().format.col_scale = Aux::none;
  formats.push_back({"nf4-aux8", {.bits = 4, .levels = sinq::Levels::nf4, .scale = Aux::u8, .zero = Aux::none}});
  formats.push_back({"preset-3", preset(3)});
  formats.push_back({"preset-3.5", preset(3.5)});
  formats.push_back({"preset-4.5", preset(4.5)});
  const auto isas = sinq::supported_isas();
  for (const Named& f : formats)
    for (auto isa = isas.rbegin(); isa != isas.rend(); ++isa)
      for (int tokens : {1, 2, 4, 16, 512})
        for (const auto& [rows, cols] :
             std::initializer_list<std::pair<std::int64_t, std::int64_t>>{{4096, 4096}, {14336, 4096}, {4096, 14336}})
          for (int width : {1, 2}) {
            const bool main = f.format.bits == 4 && std::string(f.name).starts_with("uniform-aux8");
            if (tokens != 1 && !main) continue;
            if (rows + cols != 8192 && (!main || tokens != 1 || *isa != isas.back())) continue;
            for (auto numerics : {sinq::Numerics::exact, sinq::Numerics::fast}) {
              if (*isa == sinq::Isa::portable && numerics == sinq::Numerics::fast) continue;  // there the same
              add(std::string("matmul/") + name_of(*isa) + "/" + f.name +
                      (numerics == sinq::Numerics::exact ? "/exact" : "/fast") +
                      "/bits:" + std::to_string(f.format.bits) + "/group:" + std::to_string(f.format.group_size) +
                      "/tokens:" + std::to_string(tokens) + "/" + shape(rows, cols, width),
                  [f, isa = *isa, numerics, tokens, rows = rows, cols = cols, width](benchmark::State& s) {
                    product(s, isa, numerics, f, tokens, rows, cols, width);
                  });
            }
          }
  add_peer<EigenProduct>();
#ifdef SINQ_BENCH_OPENBLAS
  add_peer<OpenBlasProduct>();
#endif
#ifdef SINQ_BENCH_ONEDNN
  add_peer<OneDnnProduct<float>>();
  add_peer<OneDnnProduct<sinq::bfloat16>>();
#endif
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
