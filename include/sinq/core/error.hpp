// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>

#include "../version.hpp"

namespace sinq::inline SINQ_ABI {

/// Base of every error that this library raises. Exceptions of others pass through: std::bad_alloc, those of the
/// caller's executor and callbacks.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument is outside what is allowed. The message names the argument, its value and the limit.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// A file or a stored matrix is malformed. The message names the file, the tensor and the byte where known.
class FormatError : public Error {
 public:
  using Error::Error;
  FormatError(const std::string& message, std::uint64_t byte_offset) : Error(message), byte_offset_(byte_offset) {}

  /// Offset from the start of the file of the byte that is wrong; 0 where no single byte is to blame.
  [[nodiscard]] std::uint64_t byte_offset() const noexcept { return byte_offset_; }

 private:
  std::uint64_t byte_offset_ = 0;
};

/// The operating system refused something (open, map, write, rename). The message names the path and the reason.
class IoError : public Error {
 public:
  using Error::Error;
};

/// A progress callback returned false.
class Cancelled : public Error {
 public:
  using Error::Error;
};

/// Called instead of throwing where the library is compiled with `-fno-exceptions`: on the thread that found the error,
/// which in `quantize` may be one of the executor's. It must not return. On the thread that called the library it may
/// `longjmp` (past destructors, so what the call had allocated is lost, and only if the executor has no other threads,
/// which would go on); elsewhere the process has to end, since the call waits for the thread. If it does return, or
/// none was set, `std::abort` ends the process.
using ErrorHook = void (*)(const char* message);

namespace detail::core {

inline std::atomic<ErrorHook>& error_hook() {
  static std::atomic<ErrorHook> hook{nullptr};
  return hook;
}

/// "bits = 7: allowed are 2, 3, 4, 5, 6, 8" from its pieces. What is written to files is made here, too: a program's
/// global locale may group digits.
template <class... Pieces>
std::string text(const Pieces&... pieces) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  (out << ... << pieces);
  return out.str();
}

/// The single way out for every error in the library.
template <class E, class... Arguments>
[[noreturn, gnu::cold, gnu::noinline]] void raise(const std::string& message, const Arguments&... arguments) {
#if SINQ_EXCEPTIONS
  throw E(message, arguments...);
#else
  ((void)arguments, ...);
  if (ErrorHook hook = error_hook().load()) hook(message.c_str());
  std::abort();
#endif
}

/// Raises InvalidArgument "`name` = `value`: `limit`" unless `ok`. The limit may come in pieces, numbers among them.
template <class Value, class... Limit>
void require(bool ok, const char* name, const Value& value, const Limit&... limit) {
  if (!ok) [[unlikely]]
    raise<InvalidArgument>(text("sinq: ", name, " = ", value, ": ", limit...));
}

}  // namespace detail::core

/// Installs the hook and returns the previous one. Without effect where exceptions are enabled.
inline ErrorHook set_error_hook(ErrorHook hook) {
  return detail::core::error_hook().exchange(hook);
}

}  // namespace sinq::inline SINQ_ABI
