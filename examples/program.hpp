// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the programs have in common. Exit codes: 0 done, 1 it failed (the message says why), 2 wrong usage. With --json
// standard output is one JSON object; messages, progress and tables for people then go to standard error.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <sinq/core/thread_pool.hpp>
#include <stdexcept>
#include <string>
#include <thread>

namespace program {

inline constexpr int kOk = 0;
inline constexpr int kFailure = 1;
inline constexpr int kUsage = 2;

/// Values that are each fine for themselves but not together.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// printf into a string.
template <class... Arguments>
std::string format(const char* pattern, Arguments... arguments) {
  char buffer[512];
  std::snprintf(buffer, sizeof buffer, pattern, arguments...);
  return buffer;
}

/// The number that all of `text` is: unlike CLI11's own conversions none from "", none from "4x", no wrapped "-1".
template <class T>
std::optional<T> number(const std::string& text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

/// Numbers from `low` to `high`, both included; not a NaN, which CLI::Range lets pass.
template <class T>
CLI::Validator from_to(T low, T high) {
  const std::string range = CLI::detail::to_string(low) + " to " + CLI::detail::to_string(high);
  const char* kind = std::is_integral_v<T> ? "a whole number" : "a number";
  const auto check = [=](const std::string& text) {
    const std::optional<T> value = number<T>(text);
    return value && *value >= low && *value <= high ? "" : "\"" + text + "\" is not " + kind + " from " + range;
  };
  return {check, "[" + range + "]"};
}

/// One of a few numbers.
template <class T>
CLI::Validator one_of(std::vector<T> allowed) {
  std::string list;
  for (const T& value : allowed) list += (list.empty() ? "{" : ",") + CLI::detail::to_string(value);
  list += "}";
  const auto check = [=](const std::string& text) {
    const std::optional<T> value = number<T>(text);
    const bool found = value && std::find(allowed.begin(), allowed.end(), *value) != allowed.end();
    return found ? "" : "\"" + text + "\" is not in " + list;
  };
  return {check, list};
}

/// Columns of a group.
inline CLI::Validator group_size() {
  const auto check = [](const std::string& text) -> std::string {
    const auto n = number<int>(text);
    if (n && *n >= 0 && *n <= 256 && *n % 16 == 0) return {};
    return "\"" + text + "\" is not a multiple of 16 from 16 to 256, or 0 for the whole row";
  };
  return {check, "INT:16..256"};
}

/// Parses the command line and runs `body`.
inline int run(CLI::App& app, int argc, char** argv, const std::function<void()>& body) {
  // Blocking, and with it the order of float sums, must not depend on the caches of the machine: the programs print the
  // same numbers everywhere.
  Eigen::setCpuCacheSizes(32 << 10, 1 << 20, 4 << 20);
  app.footer("Exit codes: 0 done, 1 failed, 2 wrong usage.");
  const std::string name = app.get_name();
  try {
    app.parse(argc, argv);
    for (const CLI::Option* option : app.get_options())
      for (const std::string& value : option->results())
        if (value.empty()) throw UsageError(option->get_name() + " is empty");
    body();
    return kOk;
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return kOk;
  } catch (const CLI::ParseError& e) {
    // An unknown option is the likeliest mistake; CLI11 would rather tell first what is missing because of it.
    std::string unknown;
    for (const std::string& argument : app.remaining())
      if (argument.starts_with('-')) unknown += " " + argument;
    if (unknown.empty()) {
      std::cerr << name << ": " << e.what() << "\n";
    } else {
      std::cerr << name << ": there is no option" << unknown << "; allowed:";
      for (const CLI::Option* option : app.get_options()) std::cerr << " " << option->get_name();
      std::cerr << "\n";
    }
    std::cerr << "see " << name << " --help\n";
    return kUsage;
  } catch (const UsageError& e) {
    std::cerr << name << ": " << e.what() << "\nsee " << name << " --help\n";
    return kUsage;
  } catch (const std::exception& e) {
    std::cerr << name << ": " << e.what() << "\n";
    return kFailure;
  }
}

/// `--threads N`: N - 1 threads beside the calling one.
class Threads {
 public:
  void add_option(CLI::App& app) {
    app.add_option("--threads", count_, "Threads; results do not depend on them")
        ->check(from_to(1, 1024))
        ->capture_default_str();
  }

  [[nodiscard]] int count() const { return count_; }

  [[nodiscard]] sinq::Executor& executor() {
    if (count_ == 1) return serial_;
    if (!pool_) {
      pool_ = std::make_unique<Eigen::ThreadPool>(count_ - 1);
      executor_ = std::make_unique<sinq::ThreadPoolExecutor>(*pool_);
    }
    return *executor_;
  }

 private:
  int count_ = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  sinq::SerialExecutor serial_;
  std::unique_ptr<Eigen::ThreadPool> pool_;
  std::unique_ptr<sinq::ThreadPoolExecutor> executor_;
};

/// One line on standard error that is rewritten in place; nothing where that is not a terminal.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label) : label_(std::move(label)), shown_(isatty(STDERR_FILENO) != 0) {}
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar() { clear(); }

  /// Leaves an empty line for what comes next.
  void clear() {
    if (drawn_) std::fprintf(stderr, "\r\033[K");
    drawn_ = false;
  }

  /// From any thread; `share` lies in [0, 1].
  void update(double share, const std::string& what = "") {
    if (!shown_) return;
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    if (drawn_ && now - last_ < std::chrono::milliseconds(50)) return;
    last_ = now;
    drawn_ = true;
    constexpr int kWidth = 30;
    const int full = static_cast<int>(share * kWidth);
    std::fprintf(stderr, "\r\033[K%s [%s%s] %3.0f %% %s", label_.c_str(), std::string(full, '#').c_str(),
                 std::string(kWidth - full, '.').c_str(), 100 * share, what.c_str());
    std::fflush(stderr);
  }

 private:
  std::string label_;
  bool shown_;
  bool drawn_ = false;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point last_;
};

class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Rows of cells as a text table: the first column on the left, numbers on the right.
class Table {
 public:
  explicit Table(std::vector<std::string> head) { rows_.push_back(std::move(head)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  void print(std::ostream& out) const {
    std::vector<std::size_t> width;
    for (const auto& row : rows_)
      for (std::size_t i = 0; i < row.size(); ++i) {
        if (i == width.size()) width.push_back(0);
        width[i] = std::max(width[i], row[i].size());
      }
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      std::string line;
      for (std::size_t i = 0; i < rows_[r].size(); ++i) {
        const std::string& cell = rows_[r][i];
        const std::string blank(width[i] - cell.size(), ' ');
        line += (i == 0 ? "" : "  ") + (i == 0 ? cell + blank : blank + cell);
      }
      out << line.substr(0, line.find_last_not_of(' ') + 1) << "\n";
      if (r == 0) {
        std::size_t total = 0;
        for (const std::size_t w : width) total += w + 2;
        out << std::string(total - 2, '-') << "\n";
      }
    }
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace program
