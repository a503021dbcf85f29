// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

namespace sinq::test {

/// Bytes that end where a page begins that nobody may touch: reading or writing behind them ends the program, with
/// sanitizers or without.
class Fenced {
 public:
  Fenced(std::size_t size, int fill) : size_(size), page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    pages_ = (size + page_ - 1) / page_ * page_;
    memory_ = static_cast<std::byte*>(
        mmap(nullptr, pages_ + page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(memory_ + pages_, page_, PROT_NONE);
    std::memset(data(), fill, size);
  }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;
  ~Fenced() { munmap(memory_, pages_ + page_); }

  [[nodiscard]] std::byte* data() const { return memory_ + pages_ - size_; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  std::size_t size_;
  std::size_t page_;
  std::size_t pages_;
  std::byte* memory_;
};

}  // namespace sinq::test
