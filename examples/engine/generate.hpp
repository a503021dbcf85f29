// SPDX-License-Identifier: Apache-2.0
#pragma once

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

}  // namespace engine
