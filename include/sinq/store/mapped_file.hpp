// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <utility>

#include "fail.hpp"

namespace sinq::inline SINQ_ABI::detail::store {

/// A whole file, mapped read-only for as long as the object lives.
class MappedFile {
 public:
  MappedFile() = default;

  explicit MappedFile(const std::filesystem::path& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not block here
    if (file < 0) fail_io("open", path, errno);
    struct stat facts {};
    int error = 0;
    if (::fstat(file, &facts) != 0) {
      error = errno;
    } else if (!S_ISREG(facts.st_mode)) {
      error = S_ISDIR(facts.st_mode) ? EISDIR : EINVAL;
    } else if (static_cast<std::uintmax_t>(facts.st_size) > SIZE_MAX / 2) {
      error = EFBIG;
    } else if (facts.st_size > 0) {
      size_ = static_cast<std::size_t>(facts.st_size);
      data_ = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0);
      if (data_ == MAP_FAILED) {
        error = errno;
        data_ = nullptr;
      }
    }
    ::close(file);
    if (error != 0) fail_io("map", path, error);
  }

  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept {
    return {static_cast<const std::byte*>(data_), size_};
  }

  /// Gives the pages of `part` back to the system; reading them again fetches them again.
  void forget(std::span<const std::byte> part) const noexcept {
    if (data_ == nullptr || part.empty()) return;
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto before = reinterpret_cast<std::uintptr_t>(part.data()) % page;  // of the first page
    ::madvise(const_cast<std::byte*>(part.data()) - before, before + part.size(), MADV_DONTNEED);
  }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace sinq::inline SINQ_ABI::detail::store
