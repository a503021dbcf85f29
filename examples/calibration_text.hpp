// SPDX-License-Identifier: Apache-2.0
#pragma once

// The text whose activations a calibration looks at: that of a file, or the model's own.

#include "engine/collect.hpp"
#include "engine/generate.hpp"
#include "engine/windows.hpp"
#include "program.hpp"

namespace calibration_text {

inline constexpr int kWindows = 64;
inline constexpr int kWindowLength = 256;

/// Windows of a file. UsageError if it holds no token.
inline std::vector<engine::Window> read(const std::string& option, const std::string& file) {
  std::vector<engine::Window> windows = engine::read_windows(file);
  if (std::all_of(windows.begin(), windows.end(), [](const auto& w) { return w.empty(); }))
    throw program::UsageError(option + " " + file + " holds no token");
  return windows;
}

/// `count` windows that the model writes for itself.
inline std::vector<engine::Window> write(const engine::Model& model, int count, sinq::Executor& executor) {
  program::ProgressBar bar("writing calibration text");
  return engine::own_text(model, count, std::min(kWindowLength, model.config.max_positions), 1, executor,
                          [&](std::int64_t done, std::int64_t total) {
                            bar.update(static_cast<double>(done) / static_cast<double>(total));
                          });
}

}  // namespace calibration_text
