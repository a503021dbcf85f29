// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <fstream>
#include <random>

#include <sinq/store.hpp>

// What the tests of this stage share: files made by hand, a directory that goes away, and processes that may die.

namespace support {

namespace fs = std::filesystem;

/// A directory of its own for each test, removed at the end.
class Directory {
 public:
  Directory() {
    std::string pattern = (fs::temp_directory_path() / "sinq-store-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() { fs::remove_all(path_); }

  [[nodiscard]] fs::path operator/(const std::string& name) const { return path_ / name; }
  [[nodiscard]] const fs::path& path() const { return path_; }

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(path_)) out.push_back(entry.path().filename().string());
    std::sort(out.begin(), out.end());
    return out;
  }

 private:
  fs::path path_;
};

inline std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return "";
  std::string out(static_cast<std::size_t>(in.tellg()), '\0');
  in.seekg(0).read(out.data(), static_cast<std::streamsize>(out.size()));
  return out;
}

inline void write(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// A safetensors file: the length of the header, the header, the data.
inline std::string safetensors(const std::string& header, const std::string& data = "") {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

inline std::span<const std::byte> bytes_of(const std::string& s) {
  return std::as_bytes(std::span(s));
}

inline std::string string_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The error that `action` throws: what it says, and its byte offset if it has one.
struct Thrown {
  std::string kind = "nothing";
  std::string message;
  std::uint64_t offset = 0;
};

template <class Action>
Thrown thrown_by(Action&& action) {
  try {
    action();
  } catch (const sinq::FormatError& e) {
    return {"FormatError", e.what(), e.byte_offset()};
  } catch (const sinq::IoError& e) {
    return {"IoError", e.what(), 0};
  } catch (const sinq::InvalidArgument& e) {
    return {"InvalidArgument", e.what(), 0};
  } catch (const std::exception& e) {
    return {"another exception", e.what(), 0};
  }
  return {};
}

inline ::testing::AssertionResult says(const Thrown& thrown, const std::string& kind, const std::string& part) {
  if (thrown.kind == kind && thrown.message.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "expected " << kind << " with \"" << part << "\", got " << thrown.kind << ": "
                                       << thrown.message;
}

/// Runs `action` in a process of its own and returns how that ended, as waitpid says it. `meanwhile(pid)` runs here.
template <class Action, class Meanwhile>
int in_child(Action&& action, Meanwhile&& meanwhile) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    int result = 1;
    try {
      result = action();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "child: %s\n", e.what());
    }
    ::_exit(result);
  }
  meanwhile(pid);
  int status = 0;
  ::waitpid(pid, &status, 0);
  return status;
}
template <class Action>
int in_child(Action&& action) {
  return in_child(action, [](pid_t) {});
}

/// A matrix of the format in which every array holds arbitrary legal bytes.
inline sinq::QuantizedMatrix arbitrary(const sinq::Format& f, std::int64_t rows, std::int64_t cols, unsigned seed = 1) {
  std::mt19937 random(seed);
  sinq::QuantizedMatrix q = sinq::make_quantized_matrix(f, rows, cols);
  const auto parts = sinq::detail::store::parts(f, q.tiling());
  const auto arrays = sinq::detail::store::arrays(q);
  const sinq::Aux aux[] = {sinq::Aux::none, f.scale, f.zero, sinq::Aux::f16, f.col_scale};
  for (std::size_t k = 0; k < parts.size(); ++k) {
    if (parts[k].rows == 0) continue;
    if (parts[k].type == sinq::store::ElementType::u8) {  // bit streams
      for (auto& byte : *arrays[k]) byte = static_cast<std::uint8_t>(random());
      const std::int64_t bits = k == 0 ? cols * f.bits : q.tiling().groups() * bits_of(aux[k]);
      if (const auto used = bits % 8; used != 0)
        for (std::int64_t i = 1; i <= parts[k].rows; ++i) {
          auto& last = (*arrays[k])[static_cast<std::size_t>(i * parts[k].cols - 1)];
          last = static_cast<std::uint8_t>(last & ((1 << used) - 1));
        }
    } else {
      for (std::int64_t i = 0; i < parts[k].rows * parts[k].cols; ++i)
        sinq::detail::pack::write_float(aux[k], arrays[k]->data(), i,
                                        static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 64.0f);
    }
  }
  if (f.levels == sinq::Levels::table)
    for (int k = 0; k < 1 << f.bits; ++k)
      q.table[static_cast<std::size_t>(k)] = static_cast<std::int8_t>(-128 + 255 * k / ((1 << f.bits) - 1));
  return q;
}

}  // namespace support
