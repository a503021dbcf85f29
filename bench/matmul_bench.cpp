// SPDX-License-Identifier: Apache-2.0
#include <sinq/matmul.hpp>

#include "formats.hpp"
#include "limit.hpp"
#include "peers.hpp"

// matmul/<path>/<format>/<numerics>: y = x W^T, beside the float products of Eigen, OpenBLAS and oneDNN (where they are
// installed) of the same shape and what the machine gives (limit/...). Up to 16 tokens, copies of the matrix are
// visited in turn, more than 1 GB of them, so that no cache helps. share_of_limit is the time that the limit
// which binds asks for, over the median time of a call: reading the bytes of the matrix, measured between the calls,
// or the multiplications, of which exact numerics in integers need three, measured just before and after. Calls and
// reads take turns of eight: as in a model, calls follow calls, and the first ones after something else are up to a
// tenth slower.
//
// col_scale/<path>/<format>/<numerics>: the same product with column scales, and without them between its calls; `cost`
// is what they add to the time, as a share.

namespace {

using namespace sinq_bench;

constexpr std::int64_t kRotate = std::int64_t{11} << 27;  // bytes
constexpr std::size_t kTurn = 8;

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
  const bool nf = sinq::detail::core::is_nf(f.levels);
  const bool floats = !fast && (nf || isa == sinq::Isa::portable || (isa == sinq::Isa::avx2 && tokens >= 4));
  using sinq::detail::matmul::TileProducts;
  const TileProducts tiles = sinq::detail::matmul::tile_products(f, t, tokens, numerics);
  if (isa == sinq::Isa::amx && tiles == TileProducts::none) isa = sinq::Isa::avx512vbmi;
  const Unit unit = tiles == TileProducts::bfloat16 ? Unit::bfloat16 : floats ? Unit::fma : Unit::bytes;
  const double peak = arithmetic_peak(threads, isa, unit);
  return peak == 0 ? 0 : 1e-9 * static_cast<double>(t.rows * t.cols * tokens) * (fast || floats ? 1 : 3) / peak;
}

/// A path in force for as long as this lives.
class OnPath {
 public:
  explicit OnPath(sinq::Isa isa) { sinq::force_isa(isa); }
  OnPath(const OnPath&) = delete;
  OnPath& operator=(const OnPath&) = delete;
  ~OnPath() { sinq::force_isa(before_); }  // NOLINT(bugprone-exception-escape): it was in force

 private:
  sinq::Isa before_ = sinq::current_isa();
};

/// Products with copies of a matrix, one after the other.
class Products {
 public:
  Products(const std::vector<sinq::PackedMatrix>& all, std::int64_t tokens, sinq::Numerics numerics,
           const Threads& threads)
      : all_(all),
        threads_(threads),
        numerics_(numerics),
        x_(weights(tokens, all[0].cols())),
        y_(tokens, all[0].rows()),
        workspace_(sinq::matmul_workspace(all[0], tokens, threads.get()->width())) {}
  void run() {
    sinq::matmul(all_[at_], x_, y_, {.executor = threads_.get(), .workspace = workspace_, .numerics = numerics_});
    at_ = at_ + 1 == all_.size() ? 0 : at_ + 1;
  }

 private:
  const std::vector<sinq::PackedMatrix>& all_;
  const Threads& threads_;
  sinq::Numerics numerics_;
  RowMajor x_, y_;
  std::vector<std::byte> workspace_;
  std::size_t at_ = 0;
};

void product(benchmark::State& state, sinq::Isa isa, sinq::Numerics numerics, const Named& f, std::int64_t tokens,
             std::int64_t rows, std::int64_t cols, int width) {
  const bool decode = tokens <= 16;
  const auto& all = copies(f, rows, cols, decode);
  const Threads threads(width);
  const OnPath path(isa);
  Products products(all, tokens, numerics, threads);
  const sinq::Tiling tiling = sinq::tiling(rows, cols, f.format.group_size, f.format.tile);
  Limit limit(threads, all[0].bytes(),
              [&] { return arithmetic_seconds(f.format, tiling, isa, numerics, tokens, threads); });
  const double time = median_time(
      state, kTurn, [&] { products.run(); }, [&] { limit.once(); });
  count_weights(state, rows * cols * tokens);
  state.counters["bytes_per_weight"] = static_cast<double>(all[0].bytes()) / static_cast<double>(rows * cols);
  if (isa != sinq::Isa::portable || decode)  // its arithmetic has no limit of its own
    state.counters["share_of_limit"] = limit.seconds() / time;
}

void col_scale(benchmark::State& state, sinq::Isa isa, sinq::Numerics numerics, const Named& f, std::int64_t tokens,
               int width) {
  const std::int64_t n = 4096;
  const auto make = [&](sinq::Aux aux) {
    sinq::Format format = f.format;
    format.col_scale = aux;
    std::vector<sinq::PackedMatrix> all{sinq::pack(random_matrix(format, n, n))};
    while (tokens <= 16 && std::ssize(all) * all[0].bytes() < kRotate / 2) all.push_back(all[0]);
    return all;
  };
  const auto scaled = make(sinq::Aux::f16), plain = make(sinq::Aux::none);
  const Threads threads(width);
  const OnPath path(isa);
  Products with(scaled, tokens, numerics, threads), without(plain, tokens, numerics, threads);
  std::vector<double> times;
  const double time = median_time(
      state, kTurn, [&] { with.run(); }, [&] { times.push_back(seconds_of([&] { without.run(); })); });
  count_weights(state, n * n * tokens);
  state.counters["cost"] = time / median(times) - 1;
}

/// Of whichever peer.
struct Held {
  std::string key;
  std::vector<std::shared_ptr<void>> all;
};
Held& held_peers() {
  static Held one;
  return one;
}

/// Copies of a peer's product, kept until others are asked for.
template <class Peer>
std::vector<std::shared_ptr<Peer>> peers(std::int64_t n, std::int64_t tokens, int width) {
  auto& [held, all] = held_peers();
  const std::string key = std::string(Peer::kName) + "/" + std::to_string(tokens) + "/" + std::to_string(width);
  if (key != held) {
    all.clear();
    const RowMajor w = weights(n, n);
    const std::int64_t count = tokens <= 16 ? kRotate / (n * n * Peer::kBytes) + 1 : 1;
    while (std::ssize(all) < count) all.push_back(std::make_shared<Peer>(w, weights(tokens, n), width));
    held = key;
  }
  std::vector<std::shared_ptr<Peer>> typed;
  typed.reserve(all.size());
  for (const auto& one : all) typed.push_back(std::static_pointer_cast<Peer>(one));
  return typed;
}

/// A peer's product: y = x W^T in floats, or from bfloat16. It is judged by what the machine has, whether or not it
/// makes use of it.
template <class Peer>
void measure_peer(benchmark::State& state, std::int64_t tokens, int width) {
  const std::int64_t n = 4096;
  const Threads threads(width);
  const auto all = peers<Peer>(n, tokens, width);
  const auto products = static_cast<double>(n * n * tokens);
  Limit limit(threads, n * n * Peer::kBytes, [&] {
    const double tiles = Peer::kBytes == 2 ? operation_seconds(threads, Unit::bfloat16, products) : 0;
    return tiles != 0 ? tiles : operation_seconds(threads, Unit::fma, products);
  });
  std::size_t k = 0;
  const double time = median_time(
      state, kTurn,
      [&] {
        all[k]->run();
        k = k + 1 == all.size() ? 0 : k + 1;
      },
      [&] { limit.once(); });
  count(state, n * n * tokens, Peer::kBytes, limit.seconds() / time);
}

/// Some peers cannot do everything on every machine (oneDNN has no bfloat16 without AVX-512).
template <class Peer>
void peer(benchmark::State& state, std::int64_t tokens, int width) {
  try {
    measure_peer<Peer>(state, tokens, width);
  } catch (const std::exception& error) {
    state.SkipWithError(error.what());
  }
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
  formats.reserve(std::size(sinq::kBitWidths) + 6);
  for (int bits : sinq::kBitWidths) formats.push_back({"uniform-aux8", uniform(bits, Aux::u8)});
  formats.push_back({"uniform-aux16", uniform(4, Aux::f16)});
  formats.push_back({"nf4-aux8", {.bits = 4, .levels = sinq::Levels::nf4, .scale = Aux::u8, .zero = Aux::none}});
  for (double size : {2.5, 3.0, 3.5, 4.5}) formats.push_back(preset(size));
  const auto isas = sinq::supported_isas();
  for (const Named& f : formats)
    for (auto isa = isas.rbegin(); isa != isas.rend(); ++isa)
      for (int tokens : {1, 2, 4, 16, 512})
        for (const auto& [rows, cols] :
             std::initializer_list<std::pair<std::int64_t, std::int64_t>>{{4096, 4096}, {14336, 4096}, {4096, 14336}})
          for (int width : {1, 2}) {
            // Every path has 4 bits with 8-bit auxiliaries at every number of tokens, the best one every format.
            const bool main = f.format.bits == 4 && f.name == "uniform-aux8";
            const bool best = *isa == sinq::current_isa();
            if (tokens != 1 && !main && (!best || tokens == 2)) continue;
            if (rows + cols != 8192 && (!main || tokens != 1 || !best)) continue;
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
  for (auto numerics : {sinq::Numerics::exact, sinq::Numerics::fast})
    for (int tokens : {1, 16, 512})
      add(std::string("col_scale/") + name_of(sinq::current_isa()) + "/uniform-aux8" +
              (numerics == sinq::Numerics::exact ? "/exact" : "/fast") +
              "/bits:4/group:64/tokens:" + std::to_string(tokens) + "/" + shape(4096, 4096, 1),
          [=, isa = sinq::current_isa()](benchmark::State& s) {
            col_scale(s, isa, numerics, {"uniform-aux8", uniform(4, Aux::u8)}, tokens, 1);
          });
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
