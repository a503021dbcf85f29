// SPDX-License-Identifier: Apache-2.0
#pragma once

// llama.cpp's own roundings, from whatever ggml is on the machine: a shared library that is opened when a program runs,
// never needed to build one. Its C interface is declared in ggml.h; the numbers of the types are part of the GGUF file
// format and stay.

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../engine/tensor.hpp"

#include <sinq/core.hpp>

namespace compare {

struct GgmlType {
  const char* name;
  int number;            // enum ggml_type
  std::int64_t block;    // weights
  const char* restorer;  // void(const void* blocks, float* weights, int64_t count)
};

inline constexpr std::array<GgmlType, 7> kGgmlTypes = {{{"Q2_K", 10, 256, "dequantize_row_q2_K"},
                                                        {"Q3_K", 11, 256, "dequantize_row_q3_K"},
                                                        {"Q4_K", 12, 256, "dequantize_row_q4_K"},
                                                        {"Q5_K", 13, 256, "dequantize_row_q5_K"},
                                                        {"Q6_K", 14, 256, "dequantize_row_q6_K"},
                                                        {"Q4_0", 2, 32, "dequantize_row_q4_0"},
                                                        {"IQ4_NL", 20, 32, "dequantize_row_iq4_nl"}}};

class Ggml {
 public:
  /// Throws if `file` is not a ggml.
  explicit Ggml(const std::string& file) : file_(file), library_(dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (!library_) throw std::runtime_error(std::string("no ggml: ") + dlerror());
    quantize_ = symbol<Quantize>("ggml_quantize_chunk");
    row_size_ = symbol<RowSize>("ggml_row_size");
    prepare_ = symbol<void (*)(int)>("ggml_quantize_init");
  }

  /// libggml-base where the dynamic linker finds it, or in one of the folders where the PyPI package libggml-python
  /// puts it.
  [[nodiscard]] static std::optional<Ggml> find() {
    namespace fs = std::filesystem;
    std::vector<std::string> candidates = {"libggml-base.so", "libggml-base.so.0"};
    std::vector<fs::path> roots;
    if (const char* environment = std::getenv("VIRTUAL_ENV")) roots.push_back(fs::path(environment) / "lib");
    for (const char* root : {"/usr/local/lib", "/usr/lib"}) roots.emplace_back(root);
    if (const char* home = std::getenv("HOME")) roots.push_back(fs::path(home) / ".local" / "lib");
    std::error_code ignored;
    for (const fs::path& root : roots)
      for (const auto& entry : fs::directory_iterator(root, ignored))
        if (entry.path().filename().string().starts_with("python3"))
          for (const char* packages : {"site-packages", "dist-packages"})
            candidates.push_back(entry.path() / packages / "libggml" / "lib64" / "libggml-base.so");
    for (const std::string& candidate : candidates) {
      if (candidate.front() == '/' && !fs::exists(candidate, ignored)) continue;
      try {
        return Ggml(candidate);
      } catch (const std::runtime_error&) {  // not there: the next one
      }
    }
    return std::nullopt;
  }

  [[nodiscard]] const std::string& file() const { return file_; }

  /// Rounds and restores in place; returns the bytes that the codes take. Blocks run on over the ends of rows, as if
  /// the matrix were one row, and the last is filled up with zeros: so matrices whose columns are no multiple of the
  /// block, which llama.cpp would give to another type, can be compared, too. Where they are one, nothing changes.
  std::int64_t round(const GgmlType& type, engine::Matrix& weights, sinq::Executor& executor) const {
    const auto restore = symbol<Restore>(type.restorer);
    prepare_(type.number);  // tables; before threads use them
    const std::int64_t size = weights.size();
    const std::int64_t blocks = (size + type.block - 1) / type.block;
    const std::size_t bytes = row_size_(type.number, type.block);
    constexpr std::int64_t kChunk = 256;  // blocks per task
    executor.run((blocks + kChunk - 1) / kChunk, [&](std::int64_t chunk, int) {
      const std::int64_t first = chunk * kChunk * type.block;
      const std::int64_t count = std::min(kChunk, blocks - chunk * kChunk);
      const std::int64_t real = std::min(count * type.block, size - first);
      std::vector<float> values(static_cast<std::size_t>(count * type.block), 0.0f);
      std::copy_n(weights.data() + first, real, values.begin());
      std::vector<std::byte> packed(bytes * static_cast<std::size_t>(count));
      quantize_(type.number, values.data(), packed.data(), 0, count, type.block, nullptr);
      restore(packed.data(), values.data(), count * type.block);
      std::copy_n(values.begin(), real, weights.data() + first);
    });
    return blocks * static_cast<std::int64_t>(bytes);
  }

 private:
  using Quantize = std::size_t (*)(int, const float*, void*, std::int64_t, std::int64_t, std::int64_t, const float*);
  using RowSize = std::size_t (*)(int, std::int64_t);
  using Restore = void (*)(const void*, float*, std::int64_t);

  struct Close {
    void operator()(void* library) const { dlclose(library); }
  };

  template <class F>
  [[nodiscard]] F symbol(const char* name) const {
    void* found = dlsym(library_.get(), name);
    if (found == nullptr) throw std::runtime_error(file_ + " is no ggml that is understood: it lacks " + name);
    return reinterpret_cast<F>(found);
  }

  std::string file_;
  std::unique_ptr<void, Close> library_;
  Quantize quantize_ = nullptr;
  RowSize row_size_ = nullptr;
  void (*prepare_)(int) = nullptr;
};

}  // namespace compare
