// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "evaluate.hpp"

namespace engine {

/// A safetensors file with `tokens` (all windows, one after the other) and `offsets` (where each begins, and the end).
[[nodiscard]] inline std::vector<Window> read_windows(const std::filesystem::path& path) {
  const sinq::store::File file(path);
  const std::vector<std::int64_t> tokens = sinq::store::to_integers(file.at("tokens"));
  const std::vector<std::int64_t> offsets = sinq::store::to_integers(file.at("offsets"));
  std::vector<Window> windows;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    const std::int64_t begin = offsets[i];
    const std::int64_t end = offsets[i + 1];
    if (begin < 0 || end < begin || end > static_cast<std::int64_t>(tokens.size()))
      throw ModelError(text(file.path(), ": offsets[", i, "] and the next are ", begin, " and ", end,
                            ", expected ascending numbers from 0 to ", tokens.size()));
    Window& window = windows.emplace_back();
    for (std::int64_t k = begin; k < end; ++k) {
      const std::int64_t token = tokens[static_cast<std::size_t>(k)];
      if (token < 0 || token > INT32_MAX)
        throw ModelError(text(file.path(), ": tokens[", k, "] is ", token, ", allowed are 0 to ", INT32_MAX));
      window.push_back(static_cast<std::int32_t>(token));
    }
  }
  return windows;
}

/// Bytes of a text as tokens.
[[nodiscard]] inline Window bytes_as_tokens(std::string_view bytes) {
  Window tokens;
  for (const char c : bytes) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

}  // namespace engine
