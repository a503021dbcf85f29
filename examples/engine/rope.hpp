// SPDX-License-Identifier: Apache-2.0
#pragma once

// Rotary position embedding. Dimension k of the first half of a head and dimension k of the second half are a pair that
// is turned by position * frequency[k]:
//
//   (a, b) -> (a cos - b sin, b cos + a sin)
//
//   plain    frequency[k] = theta^(-2k / head_dim)
//   linear   all frequencies / factor
//   dynamic  theta grows with the length of the sequence beyond max_position_embeddings
//   llama3   low frequencies / factor, high ones as they are, a smooth step between
//   yarn     the same idea with a ramp over the dimensions, and cos and sin scaled by attention_factor

#include <algorithm>
#include <numbers>
#include <vector>

#include "config.hpp"
#include "tensor.hpp"

namespace engine {

/// Frequencies of the head_dim / 2 pairs for a sequence of `length` tokens; only `dynamic` looks at the length.
inline std::vector<double> rope_frequencies(const RopeConfig& rope, int head_dim, std::int64_t length) {
  constexpr double kTurn = 2 * std::numbers::pi;
  const double dim = head_dim;
  double theta = rope.theta;
  if (rope.type == RopeConfig::Type::dynamic) {
    const double n = std::max(static_cast<double>(length), rope.original_positions);
    theta *= std::pow(rope.factor * n / rope.original_positions - (rope.factor - 1), dim / (dim - 2));
  }
  std::vector<double> f(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t k = 0; k < f.size(); ++k) f[k] = std::pow(theta, -2.0 * static_cast<double>(k) / dim);

  if (rope.type == RopeConfig::Type::linear) {
    for (double& x : f) x /= rope.factor;
  } else if (rope.type == RopeConfig::Type::llama3) {
    for (double& x : f) {
      const double turns = rope.original_positions * x / kTurn;  // within a sequence of the training length
      const double keep =
          std::clamp((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0);
      x *= keep + (1 - keep) / rope.factor;
    }
  } else if (rope.type == RopeConfig::Type::yarn) {
    // The dimension that turns `turns` times within a sequence of the training length.
    const auto dimension = [&](double turns) {
      return dim * std::log(rope.original_positions / (turns * kTurn)) / (2 * std::log(theta));
    };
    double low = dimension(rope.beta_fast);
    double high = dimension(rope.beta_slow);
    if (rope.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, dim - 1);
    if (low == high) high += 0.001;
    for (std::size_t k = 0; k < f.size(); ++k) {
      const double interpolate = std::clamp((static_cast<double>(k) - low) / (high - low), 0.0, 1.0);
      f[k] *= 1 - interpolate + interpolate / rope.factor;
    }
  }
  return f;
}

/// cos and sin for a run of positions (positions x head_dim / 2).
struct RopeTable {
  Matrix cos;
  Matrix sin;
};

/// Positions first ... first + count - 1. As in Hugging Face, `dynamic` turns the keys of a step with the frequencies
/// of that step and leaves older keys as they are.
inline RopeTable rope_table(const RopeConfig& rope, int head_dim, std::int64_t first, std::int64_t count) {
  const std::vector<double> f = rope_frequencies(rope, head_dim, first + count);
  RopeTable table{Matrix(count, head_dim / 2), Matrix(count, head_dim / 2)};
  for (std::int64_t t = 0; t < count; ++t)
    for (std::int64_t k = 0; k < head_dim / 2; ++k) {
      const double angle = static_cast<double>(first + t) * f[static_cast<std::size_t>(k)];
      table.cos(t, k) = static_cast<float>(std::cos(angle) * rope.attention_factor);
      table.sin(t, k) = static_cast<float>(std::sin(angle) * rope.attention_factor);
    }
  return table;
}

/// Turns every head of `x` (tokens x heads * head_dim) in place.
inline void rotate(const RopeTable& table, int head_dim, Matrix& x) {
  const int half = head_dim / 2;
  for (std::int64_t at = 0; at < x.cols(); at += head_dim) {
    const Matrix a = x.middleCols(at, half);
    const Matrix b = x.middleCols(at + half, half);
    x.middleCols(at, half).array() = a.array() * table.cos.array() - b.array() * table.sin.array();
    x.middleCols(at + half, half).array() = b.array() * table.cos.array() + a.array() * table.sin.array();
  }
}

}  // namespace engine
