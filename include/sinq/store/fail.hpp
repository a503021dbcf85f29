// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include "../core.hpp"

namespace sinq::inline SINQ_ABI::detail::store {

/// A name out of a file, fit for a message: in quotation marks, of bounded length, without control characters.
inline std::string in_quotes(std::string_view name) {
  constexpr std::size_t kMost = 120;
  std::string out = "\"";
  for (char c : name.substr(0, kMost)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  // A cut may leave the head of a multi-byte character behind.
  if (name.size() > kMost) {
    while ((static_cast<unsigned char>(out.back()) & 0xc0) == 0x80) out.pop_back();
    if (static_cast<unsigned char>(out.back()) >= 0xc0) out.pop_back();
    out += "...";
  }
  return out + "\"";
}

/// The file is malformed at byte `at`.
[[noreturn, gnu::cold]] inline void fail(std::string_view file, std::uint64_t at, const std::string& what) {
  core::raise<FormatError>(core::text("sinq: ", file, ": ", what, " (byte ", at, ")"), at);
}

/// The file is malformed, and no single byte is to blame.
[[noreturn, gnu::cold]] inline void fail(std::string_view file, const std::string& what) {
  core::raise<FormatError>(core::text("sinq: ", file, ": ", what));
}

/// The operating system refused `action` on `path`; `error` is an errno.
[[noreturn, gnu::cold]] inline void fail_io(const char* action, const std::filesystem::path& path, int error) {
  core::raise<IoError>(core::text("sinq: cannot ", action, " ", path.string(), ": ",
                                  std::error_code(error, std::generic_category()).message()));
}

}  // namespace sinq::inline SINQ_ABI::detail::store
