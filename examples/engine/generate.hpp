// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <random>

#include "model.hpp"

namespace engine {

struct Sampling {
  double temperature = 0;  // 0: always the most likely token
  std::uint64_t seed = 1;
};

/// The next token. The same seed gives the same text everywhere: the standard library's generators are specified to the
/// bit, its distributions are not.
inline std::int32_t sample(const Eigen::Ref<const Vector>& logits, double temperature, std::mt19937_64& random) {
  Eigen::Index top = 0;
  const double highest = logits.maxCoeff(&top);
  if (temperature <= 0) return static_cast<std::int32_t>(top);
  const Eigen::ArrayXd p = ((logits.transpose().cast<double>().array() - highest) / temperature).exp();
  double left = static_cast<double>(random() >> 11) * 0x1p-53 * p.sum();
  for (Eigen::Index i = 0; i < p.size(); ++i)
    if ((left -= p[i]) < 0) return static_cast<std::int32_t>(i);
  return static_cast<std::int32_t>(top);
}

/// Continues `prompt` (at least one token) by at most `count` tokens. `each(token)` sees every one and may stop it by
/// returning false.
inline std::vector<std::int32_t> generate(const Model& model, std::span<const std::int32_t> prompt, int count,
                                          const Sampling& sampling, sinq::Executor& executor,
                                          const std::function<bool(std::int32_t)>& each = {}) {
  if (prompt.empty()) throw ModelError("the prompt is empty: there is no token to go on from");
  model.check_tokens(prompt);
  std::mt19937_64 random(sampling.seed);
  KvCache cache(model.config);
  std::vector<std::int32_t> tokens;
  Matrix hidden = model.hidden(prompt, cache, executor);
  while (static_cast<int>(tokens.size()) < count) {
    const Matrix logits = model.logits(hidden.bottomRows(1), executor);
    tokens.push_back(sample(logits.row(0), sampling.temperature, random));
    if (each && !each(tokens.back())) break;
    if (static_cast<int>(tokens.size()) < count)
      hidden = model.hidden(std::span<const std::int32_t>(tokens).last(1), cache, executor);
  }
  return tokens;
}

/// Text of the model's own: `count` windows of `length` tokens, each from the token that texts begin with, or where
/// there is none from any token, at temperature 1. Windows are made side by side, each from its own seed.
[[nodiscard]] inline std::vector<std::vector<std::int32_t>> own_text(
    const Model& model, int count, int length, std::uint64_t seed, sinq::Executor& executor,
    const std::function<void(std::int64_t, std::int64_t)>& progress = {}) {
  std::vector<std::vector<std::int32_t>> windows(static_cast<std::size_t>(count));
  std::atomic<std::int64_t> done{0};
  executor.run(count, [&](std::int64_t w, int) {
    sinq::SerialExecutor serial;
    std::mt19937_64 random(seed + static_cast<std::uint64_t>(w));
    const auto any = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(model.config.vocab_size));
    const std::int32_t first = model.config.bos.value_or(any);
    auto& window = windows[static_cast<std::size_t>(w)];
    window = generate(model, std::span(&first, 1), length - 1, {.temperature = 1, .seed = random()}, serial);
    window.insert(window.begin(), first);
    if (progress) progress(++done, count);
  });
  return windows;
}

}  // namespace engine
