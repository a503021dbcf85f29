// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <sinq/store.hpp>

#include "machine.hpp"

// store/save, store/load: a file of float tensors, written, and copied out of its mapping. store/save_quantized,
// store/load_quantized: the same for 4-bit matrices; loading checks every byte that can be wrong. store/open: the
// header of a file of 2000 tensors.
//
// share_of_limit is against moving the same bytes without any format, turn by turn in the same run: write and fsync for
// a save, memcpy for a load, read into fresh memory for a quantized load. The files lie in the page cache.

namespace {

using namespace sinq_bench;
namespace fs = std::filesystem;
namespace store = sinq::store;

constexpr std::int64_t kBytes = 64 << 20;
constexpr int kTensors = 4;

/// A directory beside the program (temporary folders may lie in memory), removed at the end.
class Directory {
 public:
  Directory() {
    std::string pattern = (fs::current_path() / "store-bench-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() { fs::remove_all(path_); }
  [[nodiscard]] fs::path operator/(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

const std::vector<std::byte>& data() {
  static const std::vector<std::byte> bytes(kBytes, std::byte{0x3c});
  return bytes;
}

std::string tensor_name(int k) {
  return "layers." + std::to_string(k) + ".weight";
}

void save_tensors(const fs::path& path) {
  store::Writer out(path);
  for (int k = 0; k < kTensors; ++k)
    out.add(tensor_name(k), store::ElementType::f32, {kBytes / kTensors / 4096, 1024},
            std::span(data()).subspan(static_cast<std::size_t>(k * (kBytes / kTensors)),
                                      static_cast<std::size_t>(kBytes / kTensors)));
  out.finish();
}

/// What all rates and shares are counted in.
void count_bytes(benchmark::State& state, std::int64_t bytes) {
  state.counters["gigabytes_per_second"] =
      benchmark::Counter(1e-9 * static_cast<double>(bytes), benchmark::Counter::kIsIterationInvariantRate);
}

/// Runs `body` beside `limit`, which moves the same bytes, turn by turn, so that what disturbs one disturbs both.
template <class Body, class Action>
void beside(benchmark::State& state, std::int64_t bytes, Body body, Action limit) {
  std::vector<double> limits;
  const double time = median_time(state, 1, body, [&] { limits.push_back(seconds_of(limit)); });
  count_bytes(state, bytes);
  state.counters["share_of_limit"] = median(limits) / time;
}

void copy(std::span<const std::byte> from) {
  static std::vector<std::byte> to(kBytes);
  std::memcpy(to.data(), from.data(), from.size());
  benchmark::ClobberMemory();
}

void write_plain(const fs::path& path, std::span<const std::byte> bytes) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(file, bytes.data() + done, bytes.size() - done);
    if (n <= 0) break;
    done += static_cast<std::size_t>(n);
  }
  ::fsync(file);
  ::close(file);
}

void read_plain(const fs::path& path, std::vector<std::byte>& to) {
  const int file = ::open(path.c_str(), O_RDONLY);
  for (std::size_t done = 0; done < to.size();) {
    const ssize_t n = ::read(file, to.data() + done, to.size() - done);
    if (n <= 0) break;
    done += static_cast<std::size_t>(n);
  }
  ::close(file);
  benchmark::ClobberMemory();
}

std::vector<sinq::QuantizedMatrix> matrices(sinq::Aux aux) {
  const sinq::Format format{.scale = aux, .zero = aux};
  std::vector<sinq::QuantizedMatrix> out;
  out.reserve(kTensors);
  for (int k = 0; k < kTensors; ++k) out.push_back(sinq::make_quantized_matrix(format, 4096, 4096));
  return out;
}

void save_matrices(const fs::path& path, const std::vector<sinq::QuantizedMatrix>& all) {
  std::vector<std::string> names;
  for (std::size_t k = 0; k < all.size(); ++k) names.push_back(tensor_name(static_cast<int>(k)));
  std::vector<store::NamedMatrix> named;
  for (std::size_t k = 0; k < all.size(); ++k) named.push_back({names[k], all[k]});
  store::save(path, named);
}

std::int64_t bytes_of(const std::vector<sinq::QuantizedMatrix>& all) {
  std::int64_t bytes = 0;
  for (const auto& q : all) bytes += q.bytes();
  return bytes;
}

const bool kRegistered = [] {
  const std::string size = "/megabytes:" + std::to_string(kBytes >> 20);
  add("limit/memcpy" + size, [](benchmark::State& s) {
    for (auto _ : s) copy(data());
    count_bytes(s, kBytes);
  });
  add("store/save" + size, [](benchmark::State& s) {
    const Directory dir;
    beside(
        s, kBytes, [&] { save_tensors(dir / "a"); }, [&] { write_plain(dir / "b", data()); });
  });
  add("store/load" + size, [](benchmark::State& s) {
    const Directory dir;
    save_tensors(dir / "a");
    beside(
        s, kBytes,
        [&] {
          const store::File file(dir / "a");
          for (const store::Tensor& t : file.tensors()) copy(t.data);
        },
        [&] { copy(data()); });
  });
  for (const sinq::Aux aux : {sinq::Aux::f16, sinq::Aux::u8}) {
    const std::string format = aux == sinq::Aux::f16 ? "/uniform-aux16/bits:4" : "/uniform-aux8/bits:4";
    add("store/save_quantized" + format, [aux](benchmark::State& s) {
      const Directory dir;
      const auto all = matrices(aux);
      const auto plain = std::span(data()).first(static_cast<std::size_t>(bytes_of(all)));
      beside(
          s, bytes_of(all), [&] { save_matrices(dir / "a", all); }, [&] { write_plain(dir / "b", plain); });
    });
    add("store/load_quantized" + format, [aux](benchmark::State& s) {
      const Directory dir;
      const auto all = matrices(aux);
      save_matrices(dir / "a", all);
      beside(
          s, bytes_of(all), [&] { benchmark::DoNotOptimize(store::load(dir / "a")); },
          [&] {
            std::vector<std::byte> to(static_cast<std::size_t>(bytes_of(all)));
            read_plain(dir / "a", to);
          });
    });
  }
  add("store/open/tensors:2000", [](benchmark::State& s) {
    const Directory dir;
    store::Writer out(dir / "a");
    for (int k = 0; k < 2000; ++k) out.add(tensor_name(k), store::ElementType::f32, {1}, std::span(data()).first(4));
    out.finish();
    for (auto _ : s) benchmark::DoNotOptimize(store::File(dir / "a"));
    count_bytes(s, static_cast<std::int64_t>(fs::file_size(dir / "a")));
  });
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
