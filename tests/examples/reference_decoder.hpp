// SPDX-License-Identifier: Apache-2.0
#pragma once

// The decoder once more, in double precision and plain loops, written from the published description of the models and
// sharing nothing with the engine but its configuration: what the engine's logits are compared with.

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/config.hpp"

namespace reference {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

/// A tensor: rows x cols, or one row.
struct Tensor {
  int rows = 0;
  int cols = 0;
  std::vector<float> values;
  [[nodiscard]] std::size_t index(int i, int j) const {
    return static_cast<std::size_t>(i) * static_cast<std::size_t>(cols) + static_cast<std::size_t>(j);
  }
  [[nodiscard]] double at(int i, int j) const { return double{values[index(i, j)]}; }
};

struct Decoder {
  engine::ModelConfig config;
  std::map<std::string, Tensor> tensors;
  std::vector<double> frequencies;  // head_dim / 2
  double attention_factor = 1;

  [[nodiscard]] Row linear(const std::string& name, const Row& x) const {
    const Tensor& w = tensors.at(name + ".weight");
    Row y(static_cast<std::size_t>(w.rows));
    for (int i = 0; i < w.rows; ++i) {
      double sum = 0;
      for (int j = 0; j < w.cols; ++j) sum += w.at(i, j) * x[static_cast<std::size_t>(j)];
      if (const auto bias = tensors.find(name + ".bias"); bias != tensors.end()) sum += bias->second.at(0, i);
      y[static_cast<std::size_t>(i)] = sum;
    }
    return y;
  }

  /// Normalizes `count` values from `begin` on.
  void norm(const std::string& name, Row& x, std::size_t begin, std::size_t count) const {
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += x[begin + i] * x[begin + i];
    const double by = 1 / std::sqrt(sum / static_cast<double>(count) + double{config.rms_norm_eps});
    for (std::size_t i = 0; i < count; ++i) x[begin + i] *= by * tensors.at(name).at(0, static_cast<int>(i));
  }

  void turn(Row& x, int position) const {
    const auto dim = static_cast<std::size_t>(config.head_dim);
    for (std::size_t head = 0; head < x.size(); head += dim)
      for (std::size_t k = 0; k < dim / 2; ++k) {
        const double angle = position * frequencies[k];
        const double c = std::cos(angle) * attention_factor;
        const double s = std::sin(angle) * attention_factor;
        const double a = x[head + k];
        const double b = x[head + k + dim / 2];
        x[head + k] = a * c - b * s;
        x[head + k + dim / 2] = a * s + b * c;
      }
  }

  [[nodiscard]] Rows logits(const std::vector<std::int32_t>& tokens) const {
    const auto hidden = static_cast<std::size_t>(config.hidden_size);
    const auto dim = static_cast<std::size_t>(config.head_dim);
    Rows x;
    for (const int token : tokens) {
      Row& row = x.emplace_back(hidden);
      for (std::size_t j = 0; j < hidden; ++j)
        row[j] = tensors.at("model.embed_tokens.weight").at(token, static_cast<int>(j));
    }
    for (int l = 0; l < config.layers; ++l) {
      const std::string layer = "model.layers." + std::to_string(l) + ".";
      const std::string att = layer + "self_attn.";
      const bool qk_norm = tensors.count(att + "q_norm.weight") != 0;
      Rows keys, values;
      for (std::size_t t = 0; t < x.size(); ++t) {
        Row n = x[t];
        norm(layer + "input_layernorm.weight", n, 0, hidden);
        Row q = linear(att + "q_proj", n);
        Row k = linear(att + "k_proj", n);
        if (qk_norm) {
          for (std::size_t h = 0; h < q.size(); h += dim) norm(att + "q_norm.weight", q, h, dim);
          for (std::size_t h = 0; h < k.size(); h += dim) norm(att + "k_norm.weight", k, h, dim);
        }
        turn(q, static_cast<int>(t));
        turn(k, static_cast<int>(t));
        keys.push_back(k);
        values.push_back(linear(att + "v_proj", n));
        Row mixed(q.size());
        for (std::size_t h = 0; h < static_cast<std::size_t>(config.heads); ++h) {
          const std::size_t kv = h * static_cast<std::size_t>(config.kv_heads) / static_cast<std::size_t>(config.heads);
          const int window = config.window[static_cast<std::size_t>(l)];
          Row p(t + 1);
          double sum = 0;
          for (std::size_t u = 0; u <= t; ++u) {
            double dot = 0;
            for (std::size_t d = 0; d < dim; ++d) dot += q[h * dim + d] * keys[u][kv * dim + d];
            const bool seen = window == 0 || t - u < static_cast<std::size_t>(window);
            p[u] = seen ? std::exp(dot / std::sqrt(static_cast<double>(dim))) : 0;
            sum += p[u];
          }
          for (std::size_t u = 0; u <= t; ++u)
            for (std::size_t d = 0; d < dim; ++d) mixed[h * dim + d] += p[u] / sum * values[u][kv * dim + d];
        }
        const Row y = linear(att + "o_proj", mixed);
        for (std::size_t j = 0; j < hidden; ++j) x[t][j] += y[j];
      }
      for (Row& row : x) {
        Row n = row;
        norm(layer + "post_attention_layernorm.weight", n, 0, hidden);
        Row gate = linear(layer + "mlp.gate_proj", n);
        const Row up = linear(layer + "mlp.up_proj", n);
        for (std::size_t j = 0; j < gate.size(); ++j) gate[j] = gate[j] / (1 + std::exp(-gate[j])) * up[j];
        const Row y = linear(layer + "mlp.down_proj", gate);
        for (std::size_t j = 0; j < hidden; ++j) row[j] += y[j];
      }
    }
    for (Row& row : x) {
      norm("model.norm.weight", row, 0, hidden);
      row = linear(config.tied ? "model.embed_tokens" : "lm_head", row);
    }
    return x;
  }
};

}  // namespace reference
