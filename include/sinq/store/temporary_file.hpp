// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdio>

#include "mapped_file.hpp"

namespace sinq::inline SINQ_ABI::detail::store {

/// Makes a rename in `directory` survive a loss of power. File systems that cannot sync a directory say EINVAL.
inline void sync_directory(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory.empty() ? "." : directory;
  const int file = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) fail_io("open", path, errno);
  const int error = ::fsync(file) != 0 && errno != EINVAL ? errno : 0;
  ::close(file);
  if (error != 0) fail_io("sync", path, error);
}

/// A number that this process has not used before, for the name of something temporary.
inline std::string unique_suffix() {
  static std::atomic<unsigned> count{0};
  return core::text(".", ::getpid(), "-", count++, ".tmp");
}

/// A file under a temporary name beside `target`, which `commit` renames to it: whoever looks sees the old file or the
/// complete new one. Without `commit` (or after an error) the temporary file is removed; only a killed process leaves
/// it behind, as "TARGET.<process>-<number>.tmp".
///
/// A rename over a symbolic link replaces the link, not what it leads to.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::filesystem::path target) : target_(std::move(target)) {
    do {
      path_ = target_;
      path_ += unique_suffix();
      file_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (file_ < 0 && errno == EEXIST);  // a killed process of the same number left one
    if (file_ < 0) fail_io("create", target_, errno);
  }
  TemporaryFile(TemporaryFile&& other) noexcept
      : target_(std::move(other.target_)), path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)) {}
  TemporaryFile& operator=(TemporaryFile&&) = delete;
  ~TemporaryFile() { discard(); }

  [[nodiscard]] const std::filesystem::path& target() const noexcept { return target_; }

  void write(std::uint64_t at, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) give_up("write", n < 0 ? errno : EIO);
      at += static_cast<std::uint64_t>(n);
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
  }

  void read(std::uint64_t at, std::span<std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::pread(file_, bytes.data(), bytes.size(), static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) give_up("read back", n < 0 ? errno : EIO);
      at += static_cast<std::uint64_t>(n);
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
  }

  void commit() {
    if (::fsync(file_) != 0) give_up("sync", errno);
    if (::close(std::exchange(file_, -1)) != 0) give_up("close", errno);
    if (::rename(path_.c_str(), target_.c_str()) != 0) give_up("replace", errno);
    path_.clear();
    sync_directory(target_.parent_path());
  }

 private:
  void discard() noexcept {
    if (file_ >= 0) ::close(std::exchange(file_, -1));
    if (!path_.empty()) ::unlink(path_.c_str());
    path_.clear();
  }

  [[noreturn]] void give_up(const char* action, int error) {
    discard();
    fail_io(action, target_, error);
  }

  std::filesystem::path target_;
  std::filesystem::path path_;  // empty once it has been renamed or removed
  int file_ = -1;
};

/// Writes or replaces a whole small file.
inline void replace_file(const std::filesystem::path& path, std::string_view text) {
  TemporaryFile file(path);
  file.write(0, std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace sinq::inline SINQ_ABI::detail::store
